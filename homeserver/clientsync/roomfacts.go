package clientsync

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/pushrule"
	"github.com/securecomm/securecomm/homeserver/store"
)

// roomFacts are what push rules ask of a room, at one of its states.
type roomFacts struct {
	members int64
	levels  *eventauth.Context
}

// sharedMessage is an event as the rules of all its readers see it: what they need of it is decoded once.
type sharedMessage struct{ message pushrule.Message }

// weighMessage says how many bytes a message takes when it is decoded, at most and about: a list of small members
// takes twenty times its text.
func weighMessage(_ store.EventNID, s *sharedMessage) uint32 {
	return uint32(1000 + 20*len(s.message.Content))
}

func (b *builder) shared(v *visit, ev *store.Event) (*sharedMessage, error) {
	if known, ok := b.e.messages.GetIfPresent(ev.NID); ok && known.message.Event == ev.Event {
		return known, nil
	}
	facts, err := b.facts(v, ev)
	if err != nil {
		return nil, err
	}
	out := &sharedMessage{pushrule.Message{Event: ev.Event, Members: facts.members, MayNotify: func(key string) bool {
		return facts.levels.UserLevel(ev.Sender) >= facts.levels.Levels().Notification(key)
	}}}
	b.e.messages.Set(ev.NID, out)
	return out, nil
}

// facts are those of the room at an event.
func (b *builder) facts(v *visit, ev *store.Event) (*roomFacts, error) {
	if known, ok := b.e.rooms.GetIfPresent(ev.StateBefore); ok {
		return known, nil
	}
	m, err := b.tx.States.Map(ev.StateBefore)
	if err != nil {
		return nil, err
	}
	if v.counted == nil {
		if v.counted, err = b.countedNow(v.room); err != nil {
			return nil, err
		}
	}
	members, err := b.membersOf(m, *v.counted)
	if err != nil {
		return nil, err
	}
	v.counted = &countedState{m, members}
	state := eventauth.Map{}
	for _, typ := range []string{event.TypeCreate, event.TypePowerLevels, event.TypeJoinRules} {
		t := event.StateKeyTuple{Type: typ}
		piece, err := b.tx.States.Event(m, t)
		if err != nil {
			return nil, err
		}
		if piece != nil {
			state[t] = piece.Event
		}
	}
	out := &roomFacts{members: members, levels: eventauth.NewContext(state, nil)}
	b.e.rooms.Set(ev.StateBefore, out)
	return out, nil
}

// countedState is a state of a room, and how many users are joined in it.
type countedState struct {
	state  store.StateMap
	joined int64
}

// countedNow is the current state of a room, whose members the room keeps count of.
func (b *builder) countedNow(room store.RoomNID) (*countedState, error) {
	summary, err := b.tx.Rooms.Summary(room)
	if err != nil {
		return nil, err
	}
	head, err := b.tx.Rooms.Head(room)
	if err != nil {
		return nil, err
	}
	m, err := b.tx.States.Map(head.State)
	return &countedState{m, summary.JoinedMembers}, err
}

// membersOf is how many users are joined in a state. No more is read than the members in which it differs from one that was
// counted: as a rule the state before the event that was looked at last.
func (b *builder) membersOf(m store.StateMap, counted countedState) (int64, error) {
	var keys []int64
	m.Diff(counted.state, func(key int64, _, _ store.EventNID) { keys = append(keys, key) })
	tuples, err := b.tx.States.Tuples(keys)
	if err != nil {
		return 0, err
	}
	weight := map[store.EventNID]int64{}
	for key, t := range tuples {
		if t.Type == event.TypeMember {
			weight[m.Get(key)]++
			weight[counted.state.Get(key)]--
		}
	}
	joined := counted.joined
	for chunk := range slices.Chunk(slices.Collect(maps.Keys(weight)), 1000) {
		members, err := b.tx.Events.ByNID(chunk...)
		if err != nil {
			return 0, err
		}
		for _, member := range members {
			if member.Membership() == "join" {
				joined += weight[member.NID]
			}
		}
	}
	return joined, nil
}

// displayName is the user's name in the room at an event.
func (b *builder) displayName(u *unread, ev *store.Event) (string, error) {
	m, err := b.tx.States.Map(ev.StateBefore)
	if err != nil {
		return "", err
	}
	member, err := b.tx.States.Event(m, event.StateKeyTuple{Type: event.TypeMember, StateKey: string(b.p.user)})
	if err != nil || member == nil {
		return "", err
	}
	if member.ID != u.name {
		var content struct {
			Name string `json:"displayname"`
		}
		if json.Unmarshal(member.Content, &content) != nil {
			content.Name = ""
		}
		u.name, u.shown = member.ID, content.Name
	}
	return u.shown, nil
}
