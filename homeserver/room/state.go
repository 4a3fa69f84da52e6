package room

import (
	"context"
	"errors"
	"fmt"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stateres"
	"github.com/securecomm/securecomm/homeserver/store"
)

// stateAfter is the state behind an event: the one before it, and what it sets unless it was rejected.
func stateAfter(tx *store.Tx, ev *store.Event) (store.StateMap, error) {
	m, err := tx.States.Map(ev.StateBefore)
	if err != nil || ev.StateKey == nil || ev.Rejected {
		return m, err
	}
	key, err := tx.States.FindKey(ev.Tuple())
	if err != nil {
		return m, err
	}
	if key == 0 {
		return m, fmt.Errorf("the state key of %s is not interned", ev.ID)
	}
	return m.Set(key, ev.NID), nil
}

// resolve finds the one state that several agree upon.
func resolve(tx *store.Tx, v *event.Version, states []store.StateMap) (store.StateMap, error) {
	return resolveWith(tx, v, states, nil)
}

// resolveWith is resolve for states that hold an event that is not in the database yet.
func resolveWith(tx *store.Tx, v *event.Version, states []store.StateMap, fresh *store.Event) (store.StateMap, error) {
	states = distinct(states)
	switch len(states) {
	case 0:
		return store.StateMap{}, nil
	case 1:
		return states[0], nil
	}
	source := &eventSource{tx: tx, events: map[id.EventID]*store.Event{}}
	if fresh != nil {
		source.events[fresh.ID], source.fresh = fresh, fresh
	}
	sets := make([]map[event.StateKeyTuple]id.EventID, len(states))
	numbers := map[event.StateKeyTuple]int64{}
	for i, m := range states {
		set, err := source.set(m, numbers)
		if err != nil {
			return store.StateMap{}, err
		}
		sets[i] = set
	}
	resolved, err := stateres.Resolve(v, sets, source)
	if err = errors.Join(source.err, err); err != nil {
		return store.StateMap{}, fmt.Errorf("resolve the state: %w", err)
	}
	out := states[0]
	for t := range sets[0] {
		if resolved[t] == "" {
			out = out.Set(numbers[t], 0)
		}
	}
	for t, eventID := range resolved {
		ev := source.find(eventID)
		if ev == nil {
			return store.StateMap{}, fmt.Errorf("resolve the state: %s is not known", eventID)
		}
		out = out.Set(numbers[t], ev.NID)
	}
	return out, nil
}

// distinct drops states that are the same as another.
func distinct(states []store.StateMap) []store.StateMap {
	var out []store.StateMap
next:
	for _, m := range states {
		for _, o := range out {
			same := m.Len() == o.Len()
			if same {
				m.Diff(o, func(int64, store.EventNID, store.EventNID) { same = false })
			}
			if same {
				continue next
			}
		}
		out = append(out, m)
	}
	return out
}

// eventSource reads events for state resolution as it asks for them.
type eventSource struct {
	tx     *store.Tx
	events map[id.EventID]*store.Event
	fresh  *store.Event // not in the database yet; may be nil
	err    error
}

// set is a state by names.
func (s *eventSource) set(m store.StateMap, numbers map[event.StateKeyTuple]int64) (map[event.StateKeyTuple]id.EventID, error) {
	keys, nids := make([]int64, 0, m.Len()), make([]store.EventNID, 0, m.Len())
	for k, e := range m.All {
		keys, nids = append(keys, k), append(nids, e)
	}
	tuples, err := s.tx.States.Tuples(keys)
	if err != nil {
		return nil, err
	}
	list, err := s.tx.Events.ByNID(nids...)
	if err != nil {
		return nil, err
	}
	byNID := make(map[store.EventNID]*store.Event, len(list)+1)
	if s.fresh != nil {
		byNID[s.fresh.NID] = s.fresh
	}
	for _, ev := range list {
		s.events[ev.ID], byNID[ev.NID] = ev, ev
	}
	set := make(map[event.StateKeyTuple]id.EventID, len(keys))
	for i, k := range keys {
		if ev := byNID[nids[i]]; ev != nil {
			set[tuples[k]], numbers[tuples[k]] = ev.ID, k
		}
	}
	return set, nil
}

func (s *eventSource) find(eventID id.EventID) *store.Event {
	if ev, ok := s.events[eventID]; ok {
		return ev
	}
	ev, err := s.tx.Events.Get(eventID)
	s.err = errors.Join(s.err, err)
	s.events[eventID] = ev
	return ev
}

// Event is nil if the event is missing.
func (s *eventSource) Event(eventID id.EventID) *event.Event {
	if ev := s.find(eventID); ev != nil {
		return ev.Event
	}
	return nil
}

// Rejected reports whether the event was rejected when it was received.
func (s *eventSource) Rejected(eventID id.EventID) bool {
	ev := s.find(eventID)
	return ev != nil && ev.Rejected
}

// stateView shows a state in the database to the authorization rules.
type stateView struct {
	tx  *store.Tx
	m   store.StateMap
	err error
}

// Get is the state event of that type and key; nil if there is none.
func (s *stateView) Get(typ, stateKey string) *event.Event {
	ev, err := s.tx.States.Event(s.m, event.StateKeyTuple{Type: typ, StateKey: stateKey})
	s.err = errors.Join(s.err, err)
	if ev == nil {
		return nil
	}
	return ev.Event
}

// authorizeBy checks an event against a state in the database.
func authorizeBy(tx *store.Tx, ev *event.Event, m store.StateMap) error {
	view := &stateView{tx: tx, m: m}
	err := eventauth.Authorize(ev, view, nil)
	if view.err != nil {
		return fmt.Errorf("read the state: %w", view.err)
	}
	return err
}

// moveTo lists what has to be set to come from the draft's state to another one.
func (d *draft) moveTo(ctx context.Context, m store.StateMap) ([]stateSet, error) {
	var sets []stateSet
	var keys []int64
	var nids []store.EventNID
	d.state.Map.Diff(m, func(key int64, _, now store.EventNID) {
		sets = append(sets, stateSet{StateChange: store.StateChange{Key: key, Event: now}})
		keys = append(keys, key)
		if now != 0 {
			nids = append(nids, now)
		}
	})
	if len(sets) == 0 {
		return nil, nil
	}
	err := d.e.Store.View(ctx, func(tx *store.Tx) error {
		tuples, err := tx.States.Tuples(keys)
		if err != nil {
			return err
		}
		list, err := tx.Events.ByNID(nids...)
		if err != nil {
			return err
		}
		events := map[store.EventNID]*store.Event{}
		for _, ev := range list {
			events[ev.NID] = ev
		}
		for i := range sets {
			sets[i].tuple, sets[i].ev = tuples[sets[i].Key], events[sets[i].Event]
		}
		return nil
	})
	return sets, err
}
