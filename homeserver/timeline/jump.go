package timeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/peers"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

const (
	// maxJump is how many events are looked at to find the one nearest to a time.
	maxJump = 50_000
	// maxJumpSize is how many bytes of events are looked at, and jumpBatchSize how many are read at once.
	maxJumpSize   = 64 << 20
	jumpBatchSize = 1 << 20
	// maxWorse is how many events in a row may be worse than the best one before the search ends: times are chosen
	// by strangers, but nearly in order.
	maxWorse = 2000
	// jumpBatch is how many events are read at once.
	jumpBatch = 500
	// maxAsked is how many other servers are asked, and askingTime how long in all.
	maxAsked   = 5
	askingTime = 20 * time.Second
)

// nearest is a search for the event nearest to a time.
type nearest struct {
	ts      int64
	forward bool
	best    *store.Event
	worse   int
	whole   bool // other servers have no more of the history
}

// better says whether an event is nearer than the best one so far. Events come newest first; among those of one time the
// last before and the first after the time sought is the nearest.
func (n *nearest) better(ev *store.Event) bool {
	ts := ev.OriginServerTS
	if n.forward {
		return ts >= n.ts && (n.best == nil || ts <= n.best.OriginServerTS)
	}
	return ts <= n.ts && (n.best == nil || ts > n.best.OriginServerTS)
}

// EventAt finds the event of a room that is nearest to a time in milliseconds since 1970, at or after it, or at or
// before it (GET /rooms/{roomId}/timestamp_to_event). If the room's past is not all here, other servers are asked too.
// Errors: ErrForbidden, ErrNotFound.
func (s *Service) EventAt(ctx context.Context, roomID id.RoomID, r Reader, ts int64, forward bool) (id.EventID, int64, error) {
	n := &nearest{ts: ts, forward: forward}
	err := s.view(ctx, roomID, r, func(v *View) error { return n.search(v.tx, v.room, v.upto, v.Visible) })
	if err != nil {
		return "", 0, err
	}
	if !n.whole && s.AskTime != nil {
		eventID, at, err := s.askTime(ctx, roomID, n)
		if err != nil {
			s.Log.Info("cannot fetch an event near a time from other servers", "room", roomID, "err", err)
		}
		if eventID != "" {
			return eventID, at, nil
		}
	}
	if n.best == nil {
		return "", 0, fmt.Errorf("%w: no event at that side of %d", ErrNotFound, ts)
	}
	return n.best.ID, n.best.OriginServerTS, nil
}

// search looks through the history that is here, the newest first, for an event that may be seen.
func (n *nearest) search(tx *store.Tx, room *store.Room, upto stream.Position, visible func(*store.Event) (bool, error)) error {
	for looked, size := 0, 0; looked < maxJump && size < maxJumpSize && n.worse < maxWorse; {
		batch, more, err := tx.Events.RangeWithin(room.NID, first, upto, jumpBatch, jumpBatchSize, true)
		if err != nil {
			return err
		}
		looked += len(batch)
		size += sizeOf(batch)
		for _, ev := range batch {
			n.whole = n.whole || ev.StateKeyIs(event.TypeCreate, "")
			if !n.better(ev) {
				if n.best != nil {
					n.worse++
				}
				continue
			}
			seen, err := visible(ev)
			if err != nil {
				return err
			}
			if seen {
				n.best, n.worse = ev, 0
			}
		}
		if !more {
			return nil
		}
		upto = batch[len(batch)-1].Position - 1
	}
	n.whole = true // what was not looked at is here all the same
	return nil
}

// askTime asks other servers and fetches history until what one of them names is here; an empty ID if they know nothing
// nearer.
func (s *Service) askTime(ctx context.Context, roomID id.RoomID, n *nearest) (id.EventID, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, askingTime)
	defer cancel()
	servers, err := s.Peers(ctx, roomID)
	if err != nil || len(servers) == 0 {
		return "", 0, err
	}
	dir := "b"
	if n.forward {
		dir = "f"
	}
	type place struct {
		event id.EventID
		ts    int64
	}
	found, err := peers.First(ctx, servers[:min(len(servers), maxAsked)], func(ctx context.Context, server id.ServerName) (place, error) {
		eventID, ts, err := s.AskTime(ctx, server, roomID, n.ts, dir)
		if err == nil && !n.nearer(ts) {
			err = errNotNearer
		}
		return place{eventID, ts}, err
	})
	if errors.Is(err, errNotNearer) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, err
	}
	return found.event, found.ts, s.bring(ctx, roomID, found.event)
}

// errNotNearer says that another server knows no event that is nearer than what is here.
var errNotNearer = errors.New("what it knows is not nearer")

// nearer says whether a time that another server names is nearer than that of the best event here.
func (n *nearest) nearer(ts int64) bool {
	if n.forward {
		return ts >= n.ts && (n.best == nil || ts < n.best.OriginServerTS)
	}
	return ts <= n.ts && (n.best == nil || ts > n.best.OriginServerTS)
}

// bring fetches older history until an event is here, so that clients can ask for what stands around it, or gives up.
func (s *Service) bring(ctx context.Context, roomID id.RoomID, eventID id.EventID) error {
	if s.Backfill == nil {
		return nil
	}
	for range maxFetches {
		here := false
		err := s.Store.View(ctx, func(tx *store.Tx) error {
			ev, err := tx.Events.Get(eventID)
			here = ev != nil && ev.Position != 0
			return err
		})
		if err != nil || here {
			return err
		}
		if n, err := s.Backfill(ctx, roomID, MaxLimit); err != nil || n == 0 {
			return err
		}
	}
	return nil
}

// Nearest is EventAt for another server, which the caller knows to be in the room: it is answered from what is here and
// shown to that server. dir is "f" for at or after the time, "b" for at or before it. Error: ErrNotFound.
func (s *Service) Nearest(ctx context.Context, roomID id.RoomID, ts int64, dir string, shown func(*store.Tx, *store.Room) func(*store.Event) (bool, error)) (id.EventID, int64, error) {
	n := &nearest{ts: ts, forward: dir == "f"}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		room, err := tx.Rooms.ByID(roomID)
		if err != nil || room == nil {
			return err
		}
		return n.search(tx, room, last, shown(tx, room))
	})
	if err == nil && n.best == nil {
		err = fmt.Errorf("%w: no event at that side of %d", ErrNotFound, ts)
	}
	if err != nil {
		return "", 0, err
	}
	return n.best.ID, n.best.OriginServerTS, nil
}
