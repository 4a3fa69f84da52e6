package clientsync

import (
	"math"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// stateBehind is the state behind an event.
func (b *builder) stateBehind(ev *store.Event) (store.StateMap, error) {
	m, err := b.tx.States.Map(ev.StateBefore)
	if err != nil || ev.StateKey == nil {
		return m, err
	}
	key, err := b.tx.States.FindKey(ev.Tuple())
	if err != nil || key == 0 {
		return m, err
	}
	return m.Set(key, ev.NID), nil
}

// stateAt is the state of a room at a position.
func (b *builder) stateAt(room store.RoomNID, p stream.Position) (store.StateMap, error) {
	last, err := b.tx.Events.Range(room, beginning, p, 1, true)
	if err != nil || len(last) == 0 {
		return store.StateMap{}, err
	}
	newer, err := b.tx.Events.Range(room, p, math.MaxInt64, 1, false)
	if err != nil {
		return store.StateMap{}, err
	}
	if len(newer) > 0 {
		return b.stateBehind(last[0])
	}
	// What several ends of the room agree upon stands nowhere but in its head.
	head, err := b.tx.Rooms.Head(room)
	if err != nil {
		return store.StateMap{}, err
	}
	return b.tx.States.Map(head.State)
}

// stateNeeded is what a state section has to be made of.
type stateNeeded struct {
	now   store.StateMap               // of what state is told
	delta map[int64]store.EventNID     // what changed; nil: all of now
	skip  map[store.EventNID]bool      // what the timeline shows
	lazy  bool                         // members only as far as they are needed
	need  map[id.UserID]bool           // those
	sent  map[id.UserID]store.EventNID // of whom the client has been told before
	found map[id.UserID]*store.Event   // member events shown, by user
}

// roomState writes the state section: what changed between the last answer and the timeline's start, or its end.
func (b *builder) roomState(s *section, v *visit, t *timeline) error {
	name := "state"
	if b.r.UseStateAfter {
		name = "state_after"
	}
	f := &b.f.Room.State
	var events section
	if f.AllowsRoom(v.roomID) && !v.never {
		n, err := b.stateNeeded(v, t)
		if err != nil {
			return err
		}
		if n != nil {
			if err := b.writeState(&events, n); err != nil {
				return err
			}
		}
		b.remember(v, t, n)
	}
	if len(events.buf) > 0 || v.fresh || b.r.UseStateAfter && len(s.buf) > 0 {
		s.events(name, events)
	}
	return nil
}

// stateNeeded finds out what state a client lacks; nil if it lacks none.
func (b *builder) stateNeeded(v *visit, t *timeline) (*stateNeeded, error) {
	n := &stateNeeded{lazy: b.f.Room.State.LazyLoadMembers || b.f.Room.Timeline.LazyLoadMembers}
	if n.lazy {
		n.sent = b.device.sent[v.roomID]
		if v.fresh {
			n.sent = nil
		}
		if err := b.membersNeeded(v, t, n); err != nil {
			return nil, err
		}
	}
	changed := t.limited || t.hid || b.r.UseStateAfter && slices.ContainsFunc(t.events, b.mayChangeState)
	if !v.fresh && !changed && len(n.need) == 0 {
		return nil, nil
	}
	start, end, err := b.states(v, t, v.fresh || changed)
	if err != nil {
		return nil, err
	}
	n.now = start
	if b.r.UseStateAfter {
		n.now = end
	}
	if v.fresh {
		return n, nil
	}
	n.delta = map[int64]store.EventNID{}
	if changed {
		before, err := b.stateAt(v.room, v.from)
		if err != nil {
			return nil, err
		}
		n.since(before, start, end, t, b.r.UseStateAfter)
	}
	return n, nil
}

// mayChangeState says whether there may be another state behind an event than before it. Events of other servers may
// tie branches of the room together.
func (b *builder) mayChangeState(ev *store.Event) bool {
	return ev.StateKey != nil || ev.Sender.Server() != b.e.Server
}

// states are those before and behind the timeline. Unless both matter they are taken for the same.
func (b *builder) states(v *visit, t *timeline, both bool) (start, end store.StateMap, err error) {
	if len(t.events) > 0 {
		if start, err = b.tx.States.Map(t.events[0].StateBefore); err != nil || !both {
			return start, start, err
		}
	}
	if v.left && len(t.events) > 0 && t.events[len(t.events)-1].Position == v.to {
		end, err = b.stateBehind(t.events[len(t.events)-1])
	} else {
		end, err = b.stateAt(v.room, v.to)
	}
	if len(t.events) == 0 {
		start = end
	}
	return start, end, err
}

// since fills delta with what changed behind a state.
func (n *stateNeeded) since(before, start, end store.StateMap, t *timeline, after bool) {
	if !after {
		before.Diff(start, func(key int64, _, now store.EventNID) { n.delta[key] = now })
		n.skip = make(map[store.EventNID]bool, len(t.events))
		for _, ev := range t.events {
			n.skip[ev.NID] = true
		}
	}
	before.Diff(end, func(key int64, _, now store.EventNID) {
		if !n.skip[now] {
			n.delta[key] = now
		}
	})
}

// writeState writes the events of a state section.
func (b *builder) writeState(s *section, n *stateNeeded) error {
	keys := make([]int64, 0, 16)
	nids := map[int64]store.EventNID{}
	if n.delta == nil {
		for key, nid := range n.now.All {
			keys, nids[key] = append(keys, key), nid
		}
	} else {
		for key, nid := range n.delta {
			if nid != 0 {
				keys, nids[key] = append(keys, key), nid
			}
		}
	}
	tuples, err := b.tx.States.Tuples(keys)
	if err != nil {
		return err
	}
	var wanted []store.EventNID
	for _, key := range keys {
		t := tuples[key]
		if _, told := n.sent[id.UserID(t.StateKey)]; n.lazy && t.Type == event.TypeMember && !told && !n.need[id.UserID(t.StateKey)] {
			continue
		}
		if n.lazy && t.Type == event.TypeMember {
			delete(n.need, id.UserID(t.StateKey))
		}
		wanted = append(wanted, nids[key])
	}
	// Members that have not changed, but of whom the client has not been told.
	for user := range n.need {
		key, err := b.tx.States.FindKey(event.StateKeyTuple{Type: event.TypeMember, StateKey: string(user)})
		if err != nil {
			return err
		}
		if nid := n.now.Get(key); key != 0 && nid != 0 {
			wanted = append(wanted, nid)
		}
	}
	slices.Sort(wanted)
	list, err := b.tx.Events.ByNID(wanted...)
	if err != nil {
		return err
	}
	return b.writeStateEvents(s, n, list)
}

func (b *builder) writeStateEvents(s *section, n *stateNeeded, list []*store.Event) error {
	f := &b.f.Room.State
	n.found = map[id.UserID]*store.Event{}
	left := f.Count(math.MaxInt, math.MaxInt)
	for _, ev := range list {
		if n.skip[ev.NID] || !f.Allows(ev.Type, ev.Sender) || !f.AllowsContent(ev.Content) {
			continue
		}
		if left--; left < 0 {
			return nil
		}
		s.next()
		var err error
		if s.buf, err = b.appendStateEvent(s.buf, ev); err != nil {
			return err
		}
		if ev.Type == event.TypeMember {
			n.found[id.UserID(*ev.StateKey)] = ev
		}
	}
	return nil
}
