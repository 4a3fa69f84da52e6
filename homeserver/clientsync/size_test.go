package clientsync_test

import (
	"context"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// TestTimelinesAreBoundedInBytes: what does not fit stands before prev_batch.
func TestTimelinesAreBoundedInBytes(t *testing.T) {
	const rooms, large = 10, 60_000
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		alice := w.client("alice", `{"room":{"timeline":{"limit":1000}}}`)
		r := w.create("alice", room.Creation{})
		alice.next()
		since := alice.r.Since.Position
		state := w.state(r, "alice", "m.room.name", "", `{"name":"A"}`)
		var sent []id.EventID
		text := strings.Repeat("x", large)
		for range 1<<20/large + 1 {
			sent = append(sent, w.say(r, "alice", text))
		}
		j := alice.next().Rooms.Join[r]
		shown := j.Timeline.Events
		if !j.Timeline.Limited || len(shown) != 1<<20/(large+500) || shown[len(shown)-1].ID != sent[len(sent)-1] {
			t.Errorf("%d of %d events are shown, limited: %v", len(shown), len(sent), j.Timeline.Limited)
		}
		if j.State == nil || len(j.State.Events) != 1 || j.State.Events[0].ID != state {
			t.Errorf("the state before is %+v", j.State)
		}
		prev, err := stream.ParseToken(j.Timeline.Prev)
		w.must(err)
		w.must(db.View(context.Background(), func(tx *store.Tx) error {
			m, err := tx.Memberships.ByUser(user("alice"))
			w.must(err)
			list, err := tx.Events.Range(m[0].Room, since, prev.Position, 100, false)
			if len(list)+len(shown) != len(sent)+1 {
				t.Errorf("%d events are shown and %d stand before them, of %d", len(shown), len(list), len(sent)+1)
			}
			return err
		}))
		for range rooms {
			r := w.create("alice", room.Creation{})
			for range 1 << 20 / large {
				w.say(r, "alice", text)
			}
		}
		alice.r.Since = nil
		size := 0
		for name, j := range alice.next().Rooms.Join {
			if len(j.Timeline.Events) == 0 {
				t.Errorf("nothing is shown of %s", name)
			}
			for _, e := range j.Timeline.Events {
				size += len(e.Content)
			}
		}
		if size > 8<<20+rooms*large || size < 7<<20 {
			t.Errorf("all timelines together have %d bytes", size)
		}
	})
}

// TestScansAreBoundedInBytes: what a filter hides is looked at no further than for some megabytes; the rest stands before
// prev_batch.
func TestScansAreBoundedInBytes(t *testing.T) {
	const large = 60_000
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{})
		next, first := w.client("alice", `{"room":{"timeline":{"types":["x"]}}}`), w.client("alice", `{"room":{"timeline":{"types":["x"]}}}`)
		next.next()
		w.send(r, "alice", "x", `{"body":"far"}`)
		text := strings.Repeat("x", large)
		for range 16<<20/large + 20 {
			w.say(r, "alice", text)
		}
		for name, c := range map[string]*client{"next": next, "first": first} {
			if j := c.next().Rooms.Join[r]; !j.Timeline.Limited || len(j.Timeline.Events) != 0 {
				t.Errorf("%s: limited: %v, shown: %s", name, j.Timeline.Limited, bodies(j.Timeline.Events))
			}
		}
		w.send(r, "alice", "x", `{"body":"near"}`)
		check(t, "the timeline", bodies(next.next().Rooms.Join[r].Timeline.Events), "near")
	})
}
