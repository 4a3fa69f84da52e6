package eventauth

import (
	"encoding/json"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
)

// State is a room's state.
type State interface {
	// Get is the state event of that type and key; nil if there is none.
	Get(typ, stateKey string) *event.Event
}

// Map is a State held in a map.
type Map map[event.StateKeyTuple]*event.Event

// Get is the state event of that type and key; nil if there is none.
func (m Map) Get(typ, stateKey string) *event.Event {
	return m[event.StateKeyTuple{Type: typ, StateKey: stateKey}]
}

// Context is what the rules need of a room's state apart from members and third-party invites, parsed
// once. It never changes and may be shared. The room engine keeps one per head.
type Context struct {
	create    *creation    // nil if the room has no m.room.create
	levels    *PowerLevels // never nil
	hasLevels bool
	joinRule  string
}

// creation is what matters of an m.room.create.
type creation struct {
	event      *event.Event
	creator    id.UserID   // empty if the event does not say
	privileged []id.UserID // who is above all power levels
	federate   bool
}

// NewContext reads the state. The m.room.create of a room of version 12 or later may be missing in the
// state (it is not among auth events) and is handed in instead; it may be nil otherwise.
func NewContext(state State, create *event.Event) *Context {
	c, _ := new(Cache).Context(state, create)
	return &c
}

// With is the context after a state event was added to the state.
func (c *Context) With(e *event.Event) *Context {
	changed := *c
	switch {
	case e.StateKeyIs(event.TypeCreate, ""):
		changed.create = parseCreate(e)
	case e.StateKeyIs(event.TypePowerLevels, ""):
		changed.levels, _ = ParsePowerLevels(e.Version, e.Content)
		changed.hasLevels = true
	case e.StateKeyIs(event.TypeJoinRules, ""):
		changed.joinRule = parseJoinRule(e)
	default:
		return c
	}
	return &changed
}

// Levels are the room's power levels; the defaults if it has none.
func (c *Context) Levels() *PowerLevels { return c.levels }

// Powerful are the users who are named to have more power than everybody, the creators among them, in no order.
func (c *Context) Powerful() []id.UserID {
	var out []id.UserID
	if c.create != nil {
		out = append(out, c.create.privileged...)
		if !c.hasLevels && c.create.creator != "" {
			out = append(out, c.create.creator)
		}
	}
	for user, level := range c.levels.users {
		if level > c.levels.levels[usersDefault] {
			out = append(out, id.UserID(user))
		}
	}
	return out
}

// JoinRule is the room's join rule; "invite" if it has none.
func (c *Context) JoinRule() string { return c.joinRule }

// CreatorsOf names the creators of a room: one, or in version 12 and later also the additional ones.
func CreatorsOf(create *event.Event) []id.UserID {
	c := parseCreate(create)
	if len(c.privileged) > 0 {
		return c.privileged
	}
	if c.creator == "" {
		return nil
	}
	return []id.UserID{c.creator}
}

func parseCreate(e *event.Event) *creation {
	c := &creation{event: e, federate: true}
	var members map[string]json.RawMessage
	if json.Unmarshal(e.Content, &members) == nil {
		c.federate = string(members["m.federate"]) != "false"
	}
	if e.Version.UseCreateSender {
		c.creator = e.Sender
	} else {
		c.creator = id.UserID(stringMember(members, "creator"))
	}
	if e.Version.PrivilegedCreators {
		var additional []id.UserID
		// What can't be read was refused when the event came; nobody is a creator by it.
		if json.Unmarshal(members["additional_creators"], &additional) != nil {
			additional = nil
		}
		c.privileged = append([]id.UserID{e.Sender}, additional...)
	}
	return c
}

func parseJoinRule(e *event.Event) string {
	var members map[string]json.RawMessage
	if json.Unmarshal(e.Content, &members) != nil {
		return ""
	}
	if _, ok := members["join_rule"]; !ok {
		return "invite"
	}
	return stringMember(members, "join_rule")
}

// stringMember is empty unless the member is there and a string.
func stringMember(members map[string]json.RawMessage, key string) string {
	var s string
	if json.Unmarshal(members[key], &s) != nil {
		return ""
	}
	return s
}

// Cache makes contexts and remembers what it parsed, for callers that authorize many events against many
// states. The zero value is ready. It must not be used by several goroutines at once.
type Cache struct {
	creates   map[id.EventID]*creation
	levels    map[id.EventID]*PowerLevels
	joinRules map[id.EventID]string
	absent    *PowerLevels // what holds where there is no m.room.power_levels
	size      int          // of what levels and join rules were parsed from
}

// maxCached is the length in bytes of the power levels and join rules that a Cache remembers at a time.
const maxCached = 4 << 20

// Context is NewContext for one of many states; it reports whether the state has an m.room.create.
func (c *Cache) Context(state State, create *event.Event) (Context, bool) {
	ctx := Context{joinRule: "invite"}
	if create == nil {
		create = state.Get(event.TypeCreate, "")
	}
	if create != nil {
		ctx.create = remember(&c.creates, create, parseCreate)
	}
	if e := state.Get(event.TypePowerLevels, ""); e != nil {
		ctx.levels, ctx.hasLevels = c.Levels(e), true
	} else {
		if c.absent == nil {
			c.absent = defaultLevels()
		}
		ctx.levels = c.absent
	}
	if e := state.Get(event.TypeJoinRules, ""); e != nil {
		ctx.joinRule = remember(&c.joinRules, e, func(e *event.Event) string {
			c.fit(e)
			return parseJoinRule(e)
		})
	}
	return ctx, create != nil
}

// Levels are the levels of an m.room.power_levels.
func (c *Cache) Levels(e *event.Event) *PowerLevels {
	return remember(&c.levels, e, func(e *event.Event) *PowerLevels {
		c.fit(e)
		levels, _ := ParsePowerLevels(e.Version, e.Content)
		return levels
	})
}

// fit forgets what was remembered if there is no room for what is parsed from one more event.
func (c *Cache) fit(e *event.Event) {
	if c.size += len(e.Content); c.size > maxCached {
		clear(c.levels)
		clear(c.joinRules)
		c.size = len(e.Content)
	}
}

func remember[T any](known *map[id.EventID]T, e *event.Event, parse func(*event.Event) T) T {
	if value, ok := (*known)[e.ID]; ok {
		return value
	}
	if *known == nil {
		*known = make(map[id.EventID]T)
	}
	value := parse(e)
	(*known)[e.ID] = value
	return value
}
