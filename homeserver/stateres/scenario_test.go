package stateres_test

import (
	"fmt"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth/roomtest"
	"github.com/securecomm/securecomm/homeserver/id"
)

func state(sender id.UserID, typ, content string, ts int64) roomtest.Event {
	return roomtest.Event{Type: typ, StateKey: roomtest.Key(""), Sender: sender, Content: content, TS: ts}
}

func member(sender, target id.UserID, membership string, ts int64) roomtest.Event {
	content := fmt.Sprintf(`{"membership":%q}`, membership)
	return roomtest.Event{Type: event.TypeMember, StateKey: roomtest.Key(string(target)), Sender: sender, Content: content, TS: ts}
}

func levels(v *event.Version, sender id.UserID, bob, carol int, ts int64) roomtest.Event {
	users := fmt.Sprintf(`"@bob:one":%d,"@carol:two":%d`, bob, carol)
	if !v.PrivilegedCreators {
		users += `,"@alice:one":100`
	}
	return state(sender, event.TypePowerLevels, `{"users":{`+users+`}}`, ts)
}

func key(typ, stateKey string) event.StateKeyTuple {
	return event.StateKeyTuple{Type: typ, StateKey: stateKey}
}

// start is a public room of alice, bob (50) and carol (50).
func start(v *event.Version) *roomtest.Branch {
	b := roomtest.New(v, "@alice:one", "")
	b.Must(member("@alice:one", "@alice:one", "join", 1))
	b.Must(levels(v, "@alice:one", 50, 50, 2))
	b.Must(state("@alice:one", event.TypeJoinRules, `{"join_rule":"public"}`, 3))
	b.Must(member("@bob:one", "@bob:one", "join", 4))
	b.Must(member("@carol:two", "@carol:two", "join", 5))
	return b
}

// banRoom is a room in which carol evades a ban by a fork: on one side she is banned, on the other, later by
// the clock, she sets the topic.
func banRoom(v *event.Version) (one, two *roomtest.Branch, banned *event.Event) {
	one = start(v)
	two = one.Fork()
	banned = one.Must(member("@alice:one", "@carol:two", "ban", 6))
	two.Must(state("@carol:two", "m.room.topic", `{"topic":"evaded"}`, 7))
	return one, two, banned
}

func resolve(t *testing.T, branches ...*roomtest.Branch) stateIDs {
	t.Helper()
	resolved, err := resolveSets(branches[0].Room.Version, statesOf(branches), branches[0].Room)
	if err != nil {
		t.Fatal(err)
	}
	return resolved
}

// TestBanEvaded is the example of the specification's section on soft failure: by the first algorithm the
// topic of the banned user comes through, by later ones it doesn't.
func TestBanEvaded(t *testing.T) {
	for _, name := range event.Versions() {
		v, _ := event.VersionOf(name)
		one, two, banned := banRoom(v)
		resolved := resolve(t, one, two)
		if resolved[key(event.TypeMember, "@carol:two")] != banned.ID {
			t.Errorf("version %s: carol is not banned", name)
		}
		_, topic := resolved[key("m.room.topic", "")]
		if topic != (v.StateRes == event.StateResV1) {
			t.Errorf("version %s: topic is set: %v", name, topic)
		}
	}
}

// TestDemotedFirst has bob, who is being demoted by alice, raise carol at the same time. Whoever has more
// power goes first, even though bob's clock is behind.
func TestDemotedFirst(t *testing.T) {
	for _, name := range event.Versions()[1:] {
		v, _ := event.VersionOf(name)
		one := start(v)
		two := one.Fork()
		demotion := one.Must(levels(v, "@alice:one", 0, 50, 20))
		two.Must(state("@bob:one", event.TypeJoinRules, `{"join_rule":"invite"}`, 10))
		resolved := resolve(t, one, two)
		if resolved[key(event.TypePowerLevels, "")] != demotion.ID {
			t.Errorf("version %s: bob is not demoted", name)
		}
		if resolved[key(event.TypeJoinRules, "")] != one.State.Get(event.TypeJoinRules, "").ID {
			t.Errorf("version %s: bob changed the join rule", name)
		}
	}
}

// TestMainlineBeforeTime has a topic that was set under older power levels: it goes first and is overridden,
// even by one that claims to be of an earlier time.
func TestMainlineBeforeTime(t *testing.T) {
	for _, name := range event.Versions()[1:] {
		v, _ := event.VersionOf(name)
		one := start(v)
		two := one.Fork()
		one.Must(state("@bob:one", "m.room.topic", `{"topic":"old"}`, 100))
		two.Must(levels(v, "@alice:one", 50, 49, 10))
		fresh := two.Must(state("@bob:one", "m.room.topic", `{"topic":"new"}`, 11))
		if resolved := resolve(t, one, two); resolved[key("m.room.topic", "")] != fresh.ID {
			t.Errorf("version %s: the topic of the older power levels won", name)
		}
	}
}

// TestRejectedAuthEvents holds that in the iterative auth checks a rejected auth event stands for nothing.
func TestRejectedAuthEvents(t *testing.T) {
	v, _ := event.VersionOf("12")
	one, two := roomtest.New(v, "@alice:one", ""), (*roomtest.Branch)(nil)
	join := one.Must(member("@alice:one", "@alice:one", "join", 1))
	two = one.Fork()
	one.Must(state("@alice:one", "m.room.topic", `{"topic":"a"}`, 2))
	two.Must(state("@alice:one", "m.room.topic", `{"topic":"b"}`, 3))
	sets := statesOf([]*roomtest.Branch{one, two})
	accepted, err := resolveSets(v, sets, one.Room)
	if err != nil || accepted[key("m.room.topic", "")] == "" {
		t.Errorf("no topic: %v", err)
	}
	refused, err := resolveSets(v, sets, lacking{Room: one.Room, rejected: join.ID})
	if err != nil || refused[key("m.room.topic", "")] != "" {
		t.Errorf("the topic stands on a rejected join: %v", err)
	}
}

// TestNoCreateAnywhere holds that nonsense gives an answer and no panic.
func TestNoCreateAnywhere(t *testing.T) {
	for _, name := range event.Versions() {
		v, _ := event.VersionOf(name)
		one, two, _ := banRoom(v)
		sets := statesOf([]*roomtest.Branch{one, two})
		for _, set := range sets {
			delete(set, key(event.TypeCreate, ""))
		}
		if _, err := resolveSets(v, sets, one.Room); err != nil {
			t.Errorf("version %s: %v", name, err)
		}
	}
}
