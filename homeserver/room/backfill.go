package room

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// maxBackfill is how many events are fetched at once.
const maxBackfill = 100

// Backfill fetches older history of a room from other servers: at most limit events. It returns how many came; 0 if
// there is no more to be had.
func (e *Engine) Backfill(ctx context.Context, roomID id.RoomID, limit int) (int, error) {
	if e.Remote == nil {
		return 0, nil
	}
	l, err := e.live(ctx, roomID)
	if err != nil {
		return 0, err
	}
	done, err := l.turn(ctx, "") // no server's: the past is fetched for one reader at a time
	if err != nil {
		return 0, err
	}
	defer done()
	var missing []store.Missing
	err = e.Store.View(ctx, func(tx *store.Tx) (err error) {
		missing, err = tx.Relations.Missing(l.room.NID, 5)
		return err
	})
	if err != nil || len(missing) == 0 {
		return 0, err
	}
	servers, err := e.Servers(ctx, roomID)
	if err != nil {
		return 0, err
	}
	var from []id.EventID
	for _, m := range missing {
		from = append(from, m.ID)
	}
	var errs []error
	for _, server := range servers[:min(len(servers), 5)] {
		if server == e.Server {
			continue
		}
		raw, err := e.Remote.Backfill(ctx, server, roomID, from, min(max(limit, 10), maxBackfill))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if len(raw) > maxBackfill {
			raw = raw[:maxBackfill]
		}
		events := sorted(e.check(ctx, l.room, raw), prevEvents)
		slices.Reverse(events) // newest first: each is older than what is here
		n := 0
		for _, v := range events {
			if err := e.prepend(ctx, server, l.room, v); err != nil {
				e.Log.Info("an event of the past is set aside", "room", roomID, "event", v.Event().ID, "err", err)
				continue
			}
			n++
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, errors.Join(errs...)
}

// prepend puts an event into a room's past, with the state before it.
func (e *Engine) prepend(ctx context.Context, server id.ServerName, room *store.Room, v event.Verified) error {
	ev := v.Event()
	a, err := e.lookAround(ctx, room, ev)
	if err != nil {
		return err
	}
	if a.known != nil && a.known.Position != 0 {
		return e.Store.Update(ctx, func(tx *store.Tx) error { return tx.Relations.Arrived(room.NID, ev.ID) })
	}
	if len(a.noAuth) > 0 {
		if err := e.fetchAuth(ctx, server, room, ev, a.noAuth); err != nil {
			return err
		}
		if a, err = e.lookAround(ctx, room, ev); err != nil {
			return err
		}
	}
	var refused error
	before := store.StateMap{}
	if ev.Type != event.TypeCreate {
		refused = checkAuth(ev, a)
		// All its predecessors may be unknown: the other server tells the state before it.
		if before, err = e.pastState(ctx, server, room, ev, a); err != nil {
			return err
		}
	}
	nid, err := e.Store.NextNumber(ctx)
	if err != nil {
		return err
	}
	if ev.StateKey != nil {
		if _, err := e.Store.StateKey(ctx, ev.Tuple()); err != nil {
			return err
		}
	}
	out := &store.Event{Event: ev, NID: store.EventNID(nid), Room: room.NID}
	if a.known != nil {
		out.NID, out.Known = a.known.NID, true
	}
	err = e.Store.View(ctx, func(tx *store.Tx) error {
		if refused == nil && ev.Type != event.TypeCreate {
			refused = e.authorizeReceived(tx, room, a, ev, before)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if refused != nil {
		return refused
	}
	add := &addition{ev: out}
	if err := e.redactPast(ctx, room, add); err != nil {
		return err
	}
	return e.writePast(ctx, room, add, a, before)
}

// redactPast carries out a redaction that came before its target.
func (e *Engine) redactPast(ctx context.Context, room *store.Room, a *addition) error {
	l, err := e.live(ctx, room.ID)
	if err != nil {
		return err
	}
	return e.look(ctx, l, func(d *draft) error { return d.redactedBefore(ctx, a) })
}

func (e *Engine) pastState(ctx context.Context, server id.ServerName, room *store.Room, ev *event.Event, a around) (store.StateMap, error) {
	if len(a.missing) == 0 {
		return e.stateBefore(ctx, server, room, ev, a)
	}
	m, err := e.fetchState(ctx, server, room, ev.ID)
	if err != nil {
		return m, fmt.Errorf("fetch the state before %s: %w", ev.ID, err)
	}
	return m, nil
}

func (e *Engine) writePast(ctx context.Context, room *store.Room, add *addition, a around, before store.StateMap) error {
	out := add.ev
	snapshot := store.Snapshot{Map: before}
	parent, err := e.nearState(ctx, room, out)
	if err != nil {
		return err
	}
	var changes []store.StateChange
	parent.Map.Diff(before, func(key int64, _, now store.EventNID) {
		changes = append(changes, store.StateChange{Key: key, Event: now})
	})
	if len(changes) > 0 {
		nid, err := e.Store.NextNumber(ctx)
		if err != nil {
			return err
		}
		snapshot = parent.Next(store.StateNID(nid), changes)
		out.StateBefore = snapshot.NID
	} else {
		out.StateBefore = parent.NID
	}
	l, err := e.live(ctx, room.ID)
	if err != nil {
		return err
	}
	l.placing.Lock()
	defer l.placing.Unlock()
	return e.Store.Update(ctx, func(tx *store.Tx) error {
		if known, err := tx.Events.Get(out.ID); err != nil || known != nil && !known.Outlier() {
			return err // it came another way meanwhile
		}
		if len(changes) > 0 {
			if err := tx.States.Insert(room.NID, snapshot, parent.NID, changes); err != nil {
				return err
			}
		} else if err := tx.States.Hold(parent.NID); err != nil {
			return err
		}
		if err := tx.Events.Prepend(out); err != nil {
			return err
		}
		add.came = true
		if err := add.arrive(tx); err != nil {
			return err
		}
		for _, m := range a.missing {
			if err := tx.Relations.AddMissing(room.NID, store.Missing{ID: m, Child: out.NID}); err != nil {
				return err
			}
		}
		if r, ok := relationOf(out); ok {
			return tx.Relations.Insert(room.NID, r)
		}
		return nil
	})
}

// nearState is the state that another one is best written as a difference to: that before an event which follows.
func (e *Engine) nearState(ctx context.Context, room *store.Room, ev *store.Event) (s store.Snapshot, err error) {
	err = e.Store.View(ctx, func(tx *store.Tx) error {
		missing, err := tx.Relations.Missing(room.NID, 100)
		if err != nil {
			return err
		}
		for _, m := range missing {
			if m.ID != ev.ID {
				continue
			}
			list, err := tx.Events.ByNID(m.Child)
			if err != nil || len(list) == 0 {
				return err
			}
			s, err = tx.States.Get(list[0].StateBefore)
			return err
		}
		return nil
	})
	return s, err
}
