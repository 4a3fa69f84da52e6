package timeline_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

// partial puts the newest event of a room, and no other, into a database of its own. It returns what is
// missing, newest first.
func (w *world) partial(from *world, roomID id.RoomID) (*store.Room, []*store.Event) {
	w.Helper()
	ctx := context.Background()
	var room *store.Room
	var events []*store.Event
	w.must(from.Store.View(ctx, func(tx *store.Tx) (err error) {
		if room, err = tx.Rooms.ByID(roomID); err != nil {
			return err
		}
		events, err = tx.Events.Range(room.NID, 0, 1<<40, 1000, false)
		return err
	}))
	slices.Reverse(events)
	w.must(w.Store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.Rooms.Insert(&store.Room{NID: room.NID, ID: room.ID, Version: room.Version}, store.Head{}); err != nil {
			return err
		}
		newest := &store.Event{Event: events[0].Event, NID: events[0].NID, Room: room.NID}
		tx.Events.Append(newest, stream.Change{}, func(p stream.Position) error {
			return tx.Memberships.Set(store.Membership{Room: room.NID, User: user("alice"), Membership: "join", Event: newest.NID, Position: p + 1}, "", true)
		})
		return nil
	}))
	return room, events[1:]
}

func TestOlderHistory(t *testing.T) {
	each(t, func(w *world) {
		ctx, from := context.Background(), newWorld(w.T, storetest.Open(w.T, filepath.Join(w.TempDir(), "from.db")))
		roomID := from.create("shared")
		for _, body := range []string{"m0", "m1", "m2", "m3"} {
			from.say(roomID, "alice", body)
		}
		room, missing := w.partial(from, roomID)
		var fault error
		asked := 0
		w.Backfill = func(_ context.Context, _ id.RoomID, _ int) (int, error) {
			asked++
			if fault != nil {
				return 0, fault
			}
			n := min(2, len(missing))
			for _, ev := range missing[:n] {
				w.must(w.Store.Update(ctx, func(tx *store.Tx) error {
					return tx.Events.Prepend(&store.Event{Event: ev.Event, NID: ev.NID, Room: room.NID})
				}))
			}
			missing = missing[n:]
			return n, nil
		}
		read := func(from string, limit int) *timeline.Messages {
			w.Helper()
			m, err := w.Messages(ctx, roomID, reader("alice"), timeline.Page{Backwards: true, From: from, Limit: limit})
			w.must(err)
			return m
		}
		fault = errors.New("nobody answers")
		page := read("", 4)
		w.equal("without answers", w.bodies(page.Chunk), "[m3]")
		again := read(page.End, 4)
		w.equal("without answers again", w.bodies(again.Chunk), "[]")
		if again.End == "" {
			w.Error("there is said to be no more while nobody answers")
		}
		fault = nil
		page = read(page.End, 2)
		w.equal("fetched", w.bodies(page.Chunk), "[m2 m1]")
		page = read(page.End, 100)
		w.equal("the rest", w.bodies(page.Chunk), "[m0 m.room.history_visibility m.room.join_rules m.room.power_levels join @alice:one.test m.room.create]")
		w.equal("the end", page.End, "")
		before := asked
		read("", 100)
		if asked != before {
			w.Error("other servers are asked although everything is here")
		}
	})
}

func TestAskTime(t *testing.T) {
	each(t, func(w *world) {
		ctx, from := context.Background(), newWorld(w.T, storetest.Open(w.T, filepath.Join(w.TempDir(), "from.db")))
		roomID := from.create("shared")
		from.say(roomID, "alice", "m0")
		_, missing := w.partial(from, roomID)
		w.Peers = func(context.Context, id.RoomID) ([]id.ServerName, error) {
			return []id.ServerName{"two.test"}, nil
		}
		older := missing[0]
		for _, c := range []struct {
			forward  bool
			ts       int64
			answer   int64
			answered bool // whether the answer is nearer than what is here
		}{
			{false, 5000, 5000, true},
			{false, 5000, 6000, false},
			{true, 5000, 5001, true},
			{true, 5000, 4999, false},
			{true, 5000, 1 << 50, false},
		} {
			w.AskTime = func(context.Context, id.ServerName, id.RoomID, int64, string) (id.EventID, int64, error) {
				return older.ID, c.answer, nil
			}
			got, _, err := w.EventAt(ctx, roomID, reader("alice"), c.ts, c.forward)
			if (got == older.ID) != c.answered {
				w.Errorf("%+v: %s, %v", c, got, err)
			}
		}
	})
}

// TestSilentServersHideNoTime: an event near a time is found while servers that were asked before are still silent.
func TestSilentServersHideNoTime(t *testing.T) {
	each(t, func(w *world) {
		ctx, from := context.Background(), newWorld(w.T, storetest.Open(w.T, filepath.Join(w.TempDir(), "from.db")))
		roomID := from.create("shared")
		from.say(roomID, "alice", "m0")
		_, missing := w.partial(from, roomID)
		w.Peers = func(context.Context, id.RoomID) ([]id.ServerName, error) {
			return []id.ServerName{"silent.test", "two.test"}, nil
		}
		w.AskTime = func(ctx context.Context, server id.ServerName, _ id.RoomID, _ int64, _ string) (id.EventID, int64, error) {
			if server == "silent.test" {
				<-ctx.Done()
				return "", 0, ctx.Err()
			}
			return missing[0].ID, 5000, ctx.Err()
		}
		if got, _, err := w.EventAt(ctx, roomID, reader("alice"), 5000, false); got != missing[0].ID {
			w.Errorf("%s, %v", got, err)
		}
	})
}
