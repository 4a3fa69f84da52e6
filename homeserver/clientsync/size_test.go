package clientsync_test

import (
	"context"
	"encoding/json"
	"fmt"
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

// TestToldEventsHaveRoomInTimelines: what redacted an event, what it replaced and who sent it take their room in a timeline.
func TestToldEventsHaveRoomInTimelines(t *testing.T) {
	const n, told = 60, 50_000
	large := fmt.Sprintf(`{"reason":%q}`, strings.Repeat("x", told))
	for name, c := range map[string]struct {
		filter string
		fill   func(w *world, r id.RoomID)
	}{
		"redactions": {`{"room":{"timeline":{"limit":1000,"types":["test.small"]}}}`, func(w *world, r id.RoomID) {
			for range n {
				_, err := w.rooms.Redact(context.Background(), r, user("alice"), w.send(r, "alice", "test.small", `{}`), json.RawMessage(large), nil)
				w.must(err)
			}
		}},
		"replaced state": {`{"room":{"timeline":{"limit":1000,"types":["test.small"],"contains_url":true},"state":{"types":[]}}}`, func(w *world, r id.RoomID) {
			for range n {
				w.state(r, "alice", "test.small", "", large)
				w.state(r, "alice", "test.small", "", `{"url":"mxc://one.test/x"}`)
			}
		}},
		"senders": {`{"room":{"timeline":{"limit":1000,"types":["test.small"]},"state":{"lazy_load_members":true}}}`, func(w *world, r id.RoomID) {
			for i := range n {
				who := user(fmt.Sprint("user", i))
				w.must(w.rooms.SetMembership(context.Background(), room.Change{
					Room: r, Sender: who, Target: who, Membership: "join", Reason: strings.Repeat("x", told),
				}))
				w.send(r, fmt.Sprint("user", i), "test.small", `{}`)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, db *store.DB) {
				w := newWorld(t, db)
				r := w.create("alice", room.Creation{})
				c.fill(w, r)
				j := w.client("alice", c.filter).next().Rooms.Join[r]
				shown := len(j.Timeline.Events)
				if !j.Timeline.Limited || shown < 15 || shown*told > 1<<20+told {
					t.Errorf("%d events of %d are shown, limited: %v", shown, n, j.Timeline.Limited)
				}
			})
		})
	}
}

// TestUnreadCountsLookAtBoundedBytes: what is counted of a room has a bound in bytes, and so has that of all rooms of an answer.
// A room that came too short there is counted again.
func TestUnreadCountsLookAtBoundedBytes(t *testing.T) {
	const rooms, messages, large = 10, 90, 50_000
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w, text := newWorld(t, db), strings.Repeat("x", large)
		var all []id.RoomID
		for range rooms {
			r := w.create("alice", room.Creation{})
			w.join(r, "bob")
			for range messages {
				w.say(r, "alice", text)
			}
			all = append(all, r)
		}
		bob := w.client("bob", `{"room":{"timeline":{"limit":1}}}`)
		short, sum := id.RoomID(""), 0
		for r, j := range bob.next().Rooms.Join {
			n := j.Unread.All
			if sum += n; n < 1 || n*large > 4<<20+large {
				t.Errorf("%d of %d messages of a room are counted", n, messages)
			}
			if n < 20 {
				short = r
			}
		}
		if sum*large > 32<<20+rooms*2*large || sum*large < 28<<20 || short == "" {
			t.Errorf("%d messages of all rooms are counted", sum)
		}
		w.say(short, "alice", "one more")
		if n := bob.next().Rooms.Join[short].Unread.All; n < 80 {
			t.Errorf("%d of %d messages are counted in an answer that has room for them", n, messages+1)
		}
	})
}
