package roomtest

import (
	"encoding/json"
	"fmt"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
)

// Users take part in rooms made by chance. The first is the creator.
var Users = []id.UserID{"@a:one", "@b:one", "@c:two", "@d:two", "@e:three"}

// Chance makes rooms and events by chance; Choose picks a number from 0 to n-1.
type Chance struct{ Choose func(n int) int }

func pick[T any](c Chance, list ...T) T { return list[c.Choose(len(list))] }

// Room is a room with a creator, power levels, a join rule and some members.
func (c Chance) Room(v *event.Version) *Branch {
	b := New(v, Users[0], pick(c, "", "", `"m.federate":true`, `"additional_creators":["@b:one"]`))
	b.Must(c.member(Users[0], Users[0], "join", ""))
	b.Must(Event{Type: event.TypePowerLevels, StateKey: Key(""), Sender: Users[0], Content: c.firstLevels(v)})
	rule := pick(c, "public", "public", "public", "invite")
	b.Must(Event{Type: event.TypeJoinRules, StateKey: Key(""), Sender: Users[0], Content: fmt.Sprintf(`{"join_rule":%q}`, rule)})
	for _, user := range Users[1 : 2+c.Choose(len(Users)-1)] {
		if rule == "invite" {
			b.Must(c.member(Users[0], user, "invite", ""))
		}
		b.Must(c.member(user, user, "join", ""))
	}
	return b
}

func (c Chance) firstLevels(v *event.Version) string {
	users := fmt.Sprintf(`"@c:two":%d,"@d:two":%d`, pick(c, 0, 50, 100), pick(c, 0, 50))
	if !v.PrivilegedCreators {
		users += fmt.Sprintf(`,"@a:one":100,"@b:one":%d`, pick(c, 50, 100))
	}
	return `{"users":{` + users + `},"state_default":50,"events":{"m.room.topic":` + fmt.Sprint(pick(c, 0, 50)) + `}}`
}

func (c Chance) ts() int64 { return int64(c.Choose(8)) }

func (c Chance) member(sender, target id.UserID, membership, more string) Event {
	content := fmt.Sprintf(`{"membership":%q%s}`, membership, more)
	return Event{Type: event.TypeMember, StateKey: Key(string(target)), Sender: sender, Content: content, TS: c.ts()}
}

// Event is an event by chance that may or may not be allowed on a branch.
func (c Chance) Event(b *Branch) Event {
	sender := pick(c, Users...)
	state := func(typ, content string) Event {
		return Event{Type: typ, StateKey: Key(""), Sender: sender, Content: content, TS: c.ts()}
	}
	switch c.Choose(8) {
	case 0, 1:
		return state(event.TypePowerLevels, c.changedLevels(b))
	case 2:
		rule := pick(c, "public", "invite", "knock", "restricted", "knock_restricted", "private")
		return state(event.TypeJoinRules, fmt.Sprintf(`{"join_rule":%q}`, rule))
	case 3:
		return c.member(sender, sender, pick(c, "join", "join", "leave", "knock"), c.via())
	case 4, 5:
		return c.member(sender, pick(c, Users...), pick(c, "invite", "leave", "ban", "ban", "join", "knock", "odd"), "")
	case 6:
		return state(pick(c, "m.room.topic", "m.room.name", event.TypeThirdPartyInvite), fmt.Sprintf(`{"x":%d}`, c.Choose(100)))
	default:
		return c.other(b, sender)
	}
}

func (c Chance) via() string {
	if c.Choose(3) > 0 {
		return ""
	}
	return fmt.Sprintf(`,"join_authorised_via_users_server":%q`, pick(c, Users...))
}

func (c Chance) other(b *Branch, sender id.UserID) Event {
	e := Event{Sender: sender, TS: c.ts()}
	switch c.Choose(4) {
	case 0:
		e.Type, e.Content = "m.room.message", `{"body":"x"}`
	case 1:
		e.Type, e.StateKey, e.Content = "org.example.own", Key(string(pick(c, Users...))), `{}`
	case 2:
		e.Type, e.StateKey, e.Content = event.TypeAliases, Key(string(pick(c, Users...).Server())), `{}`
	default:
		e.Type, e.Content, e.Redacts = event.TypeRedaction, `{}`, pick(c, b.Room.All...).ID
	}
	return e
}

// changedLevels are the branch's power levels with one or two changes.
func (c Chance) changedLevels(b *Branch) string {
	levels := map[string]any{}
	if old := b.State.Get(event.TypePowerLevels, ""); old != nil {
		if err := json.Unmarshal(old.Content, &levels); err != nil {
			panic(err)
		}
	}
	entry := func(of, key string) {
		entries, _ := levels[of].(map[string]any)
		if entries == nil {
			entries = map[string]any{}
			levels[of] = entries
		}
		if c.Choose(4) == 0 {
			delete(entries, key)
			return
		}
		entries[key] = c.level(b.Room.Version)
	}
	for range 1 + c.Choose(2) {
		switch c.Choose(6) {
		case 0, 1, 2:
			entry("users", string(pick(c, Users...)))
		case 3:
			entry("events", pick(c, "m.room.topic", "m.room.name", "m.room.power_levels", "org.example.own"))
		case 4:
			entry("notifications", pick(c, "room", "other"))
		default:
			levels[pick(c, "users_default", "events_default", "state_default", "ban", "redact", "kick", "invite")] = c.level(b.Room.Version)
		}
	}
	content, err := json.Marshal(levels)
	if err != nil {
		panic(err)
	}
	return string(content)
}

func (c Chance) level(v *event.Version) any {
	level := pick(c, 0, 10, 49, 50, 51, 99, 100, 101, -1)
	if !v.IntegerPowerLevels && c.Choose(6) == 0 {
		return fmt.Sprintf(" %03d ", level)
	}
	return level
}

// Calm is an event by chance that has no bearing on what others may do.
func (c Chance) Calm() Event {
	return Event{
		Type: pick(c, "m.room.topic", "m.room.name", "org.example.calm"), StateKey: Key(""), Sender: pick(c, Users...),
		Content: fmt.Sprintf(`{"x":%d}`, c.Choose(1000)), TS: c.ts(),
	}
}
