package room

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/stateres"
	"github.com/securecomm/securecomm/homeserver/store"
)

// resolve finds the one state that several agree upon. Events that are not in the database yet may be handed in. A large
// resolution may have to wait, without a reader of the database.
func (e *Engine) resolve(ctx context.Context, tx *store.Tx, room *store.Room, states []store.StateMap, fresh ...*store.Event) (store.StateMap, error) {
	out, _, err := e.resolveMeasured(ctx, tx, room, states, fresh...)
	return out, err
}

// resolveMeasured is resolve; it also says how many steps it took.
func (e *Engine) resolveMeasured(ctx context.Context, tx *store.Tx, room *store.Room, states []store.StateMap, fresh ...*store.Event) (store.StateMap, int, error) {
	states = distinct(states)
	switch len(states) {
	case 0:
		return store.StateMap{}, 0, nil
	case 1:
		return states[0], 0, nil
	}
	tx.Rest()
	g := e.graph(room.NID)
	g.mu.Lock()
	defer g.mu.Unlock()
	turn := e.heavy.turn(room.NID)
	defer turn.end()
	s := newSource(tx, g, fresh)
	s.effort = func(n int) error { return turn.work(ctx, n, tx.Rest) }
	out, err := s.resolve(room.Version, states)
	return out, turn.steps, err
}

// resolve looks at what differs between states and what authorizes that, not at what they have in common.
func (s *eventSource) resolve(v *event.Version, states []store.StateMap) (store.StateMap, error) {
	common := &common{source: s, state: states[0], apart: map[int64]bool{}}
	for _, m := range states[1:] {
		states[0].Diff(m, func(key int64, _, _ store.EventNID) { common.apart[key] = true })
	}
	if err := s.setApart(common); err != nil {
		return store.StateMap{}, err
	}
	sets, numbers, err := s.sets(states, common.apart)
	if err != nil {
		return store.StateMap{}, err
	}
	resolved, err := stateres.Resolve(v, common, sets, s)
	if err = errors.Join(s.err, err); err != nil {
		return store.StateMap{}, fmt.Errorf("resolve the state: %w", err)
	}
	out := states[0]
	for t, key := range numbers {
		if resolved[t] == "" {
			out = out.Set(key, 0)
		}
	}
	for t, eventID := range resolved {
		ev := s.find(eventID)
		if ev == nil {
			return store.StateMap{}, fmt.Errorf("resolve the state: %s is not known", eventID)
		}
		key := numbers[t]
		if key == 0 {
			if key, err = s.tx.States.FindKey(t); err != nil {
				return store.StateMap{}, err
			}
		}
		out = out.Set(key, ev.NID)
	}
	return out, nil
}

// setApart has what is not in the database, and so not in the graph, looked at in any case.
func (s *eventSource) setApart(c *common) error {
	for eventID := range s.fresh {
		ev := s.events[eventID]
		if ev.StateKey == nil {
			continue
		}
		key, err := s.tx.States.FindKey(ev.Tuple())
		if err != nil {
			return err
		}
		if c.state.Get(key) == ev.NID {
			c.apart[key] = true
		}
	}
	return nil
}

// distinct drops states that are the same as another.
func distinct(states []store.StateMap) []store.StateMap {
	var out []store.StateMap
	for _, m := range states {
		if !slices.ContainsFunc(out, m.Equal) {
			out = append(out, m)
		}
	}
	return out
}
