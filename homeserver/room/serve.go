package room

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

const (
	// MaxBackfill is how many events another server gets at once.
	MaxBackfill = 100
	// maxEnds is how many events a walk through a room may begin or end at.
	maxEnds = 100
)

// served finds a room for another server that has to be in it.
func (e *Engine) served(ctx context.Context, origin id.ServerName, roomID id.RoomID) (*store.Room, error) {
	l, err := e.hosted(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if err := e.mayTakePart(ctx, roomID, origin); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := e.load(ctx, l); err != nil {
		return nil, err
	}
	if l.servers[origin] == 0 {
		return nil, fmt.Errorf("%w: %s is not in %s", ErrForbidden, origin, roomID)
	}
	return l.room, nil
}

// outlines reads what events are without their contents, some at a time: whole rooms of them are too large to be held.
func outlines[K comparable](by func(...K) ([]*store.Event, error), keys []K) ([]*store.Event, error) {
	out := make([]*store.Event, 0, len(keys))
	for some := range slices.Chunk(keys, readAtOnce) {
		list, err := by(some...)
		if err != nil {
			return nil, err
		}
		for _, ev := range list {
			out = append(out, bare(ev))
		}
	}
	return out, nil
}

// stateOutlines are outlines of the events of a state, in order of their numbers.
func stateOutlines(tx *store.Tx, m store.StateMap) ([]*store.Event, error) {
	nids := make([]store.EventNID, 0, m.Len())
	for _, nid := range m.All {
		nids = append(nids, nid)
	}
	slices.Sort(nids)
	return outlines(tx.Events.ByNID, nids)
}

// wholeAtOnce is how many events EachWhole reads at a time.
const wholeAtOnce = 50

// EachWhole reads events of which only outlines are known and hands them on some at a time.
func (e *Engine) EachWhole(ctx context.Context, outlines []*store.Event, each func([]*store.Event) error) error {
	for some := range slices.Chunk(outlines, wholeAtOnce) {
		nids := make([]store.EventNID, len(some))
		for i, ev := range some {
			nids[i] = ev.NID
		}
		var list []*store.Event
		err := e.Store.Glance(ctx, func(tx *store.Tx) (err error) {
			list, err = tx.Events.ByNID(nids...)
			return err
		})
		if err == nil {
			err = each(list)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// StateAt is the state of a room before an event and everything that authorizes it, as outlines, for another server in the
// room.
func (e *Engine) StateAt(ctx context.Context, origin id.ServerName, roomID id.RoomID, at id.EventID) (state, auth []*store.Event, err error) {
	room, err := e.served(ctx, origin, roomID)
	if err != nil {
		return nil, nil, err
	}
	err = e.Store.View(ctx, func(tx *store.Tx) error {
		ev, err := placed(tx, room, at)
		if err != nil {
			return err
		}
		m, err := tx.States.Map(ev.StateBefore)
		if err != nil {
			return err
		}
		if state, err = stateOutlines(tx, m); err != nil {
			return err
		}
		auth, err = authChain(tx, state)
		return err
	})
	return state, auth, err
}

// placed finds an event of a room that has its place in the room's history.
func placed(tx *store.Tx, room *store.Room, at id.EventID) (*store.Event, error) {
	ev, err := tx.Events.Get(at)
	if err != nil {
		return nil, err
	}
	if ev == nil || ev.Room != room.NID || ev.Rejected || ev.Outlier() {
		return nil, fmt.Errorf("%w: %s", ErrEventNotFound, at)
	}
	return ev, nil
}

// AuthChain are outlines of everything that authorizes an event, for another server in its room.
func (e *Engine) AuthChain(ctx context.Context, origin id.ServerName, roomID id.RoomID, of id.EventID) ([]*store.Event, error) {
	room, err := e.served(ctx, origin, roomID)
	if err != nil {
		return nil, err
	}
	var chain []*store.Event
	err = e.Store.View(ctx, func(tx *store.Tx) error {
		ev, err := tx.Events.Get(of)
		if err != nil {
			return err
		}
		if ev == nil || ev.Room != room.NID || ev.Rejected {
			return fmt.Errorf("%w: %s", ErrEventNotFound, of)
		}
		if chain, err = authChain(tx, []*store.Event{ev}); err != nil {
			return err
		}
		if room.Version.NoCreateInAuthEvents && ev.Type != event.TypeCreate {
			// It is implied there, but still part of what authorizes the event.
			create, err := tx.Events.ByID(id.EventID("$" + string(room.ID[1:])))
			chain = append(chain, create...)
			return err
		}
		return nil
	})
	return chain, err
}

// EventFor is an event for another server in its room; redacted if the server may not see it.
func (e *Engine) EventFor(ctx context.Context, origin id.ServerName, eventID id.EventID) (*event.Event, error) {
	var ev *store.Event
	var room *store.Room
	err := e.Store.View(ctx, func(tx *store.Tx) (err error) {
		if ev, err = tx.Events.Get(eventID); err != nil || ev == nil {
			return err
		}
		room, err = tx.Rooms.ByNID(ev.Room)
		return err
	})
	if err != nil {
		return nil, err
	}
	if ev == nil || ev.Rejected || ev.Outlier() && ev.StateKey == nil {
		return nil, fmt.Errorf("%w: %s", ErrEventNotFound, eventID)
	}
	if _, err := e.served(ctx, origin, room.ID); err != nil {
		return nil, err
	}
	shown, err := e.shownTo(ctx, origin, room, []*store.Event{ev})
	if err != nil {
		return nil, err
	}
	return shown[0], nil
}

// BackfillFor is up to limit events from some of a room's events into its past, those included, newest first, for
// another server in the room.
func (e *Engine) BackfillFor(ctx context.Context, origin id.ServerName, roomID id.RoomID, from []id.EventID, limit int) ([]*event.Event, error) {
	room, err := e.served(ctx, origin, roomID)
	if err != nil {
		return nil, err
	}
	if len(from) == 0 || len(from) > maxEnds {
		return nil, fmt.Errorf("%w: from 1 to %d events to begin at", ErrBadRequest, maxEnds)
	}
	var found []*store.Event
	err = e.Store.View(ctx, func(tx *store.Tx) (err error) {
		found, err = newWalk(tx, room, nil, 0).find(from, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return e.shownTo(ctx, origin, room, found)
}

// MissingFor is up to limit events before the latest and behind the earliest ones, oldest first, for another
// server in the room.
func (e *Engine) MissingFor(ctx context.Context, origin id.ServerName, roomID id.RoomID, earliest, latest []id.EventID, limit int, minDepth int64) ([]*event.Event, error) {
	room, err := e.served(ctx, origin, roomID)
	if err != nil {
		return nil, err
	}
	if len(earliest) > maxEnds || len(latest) > maxEnds {
		return nil, fmt.Errorf("%w: at most %d earliest and latest events", ErrBadRequest, maxEnds)
	}
	var found []*store.Event
	err = e.Store.View(ctx, func(tx *store.Tx) error {
		ends, err := tx.Events.ByID(latest...)
		if err != nil {
			return err
		}
		var from []id.EventID
		for _, end := range ends {
			if end.Room == room.NID {
				from = append(from, end.PrevEvents...)
			}
		}
		found, err = newWalk(tx, room, slices.Concat(earliest, latest), minDepth).find(from, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(found, func(a, b *store.Event) int { return cmp.Compare(a.Position, b.Position) })
	return e.shownTo(ctx, origin, room, found)
}

// shownTo is events as a server in the room may see them: redacted if the history of the time is not for it.
func (e *Engine) shownTo(ctx context.Context, origin id.ServerName, room *store.Room, events []*store.Event) ([]*event.Event, error) {
	out := make([]*event.Event, len(events))
	err := e.Store.View(ctx, func(tx *store.Tx) error {
		v := newVisibility(tx, room, origin)
		for i, ev := range events {
			visible, err := v.visible(ev)
			if err != nil {
				return err
			}
			if out[i] = ev.Event; !visible {
				if out[i], err = ev.Redact(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return out, err
}

// CheckServed refuses servers that are not in a room, or barred from it.
func (e *Engine) CheckServed(ctx context.Context, origin id.ServerName, roomID id.RoomID) error {
	_, err := e.served(ctx, origin, roomID)
	return err
}
