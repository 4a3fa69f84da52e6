package room

import (
	"context"
	"errors"
	"fmt"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/store"
)

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
	var tuples map[int64]event.StateKeyTuple
	var list []*store.Event
	err := d.view(ctx, func(tx *store.Tx) (err error) {
		if tuples, err = tx.States.Tuples(keys); err == nil {
			list, err = tx.Events.ByNID(nids...)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	events := map[store.EventNID]*store.Event{}
	for _, ev := range list {
		events[ev.NID] = ev
	}
	for i := range sets {
		s := &sets[i]
		if s.tuple, s.ev = tuples[s.Key], events[s.Event]; s.ev == nil && s.Event != 0 {
			return nil, fmt.Errorf("read the state: event %d is not here", s.Event)
		}
	}
	return sets, nil
}
