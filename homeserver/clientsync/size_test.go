package clientsync_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/clientsync"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
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

// TestLargeStateIsNotHeld: an answer holds only some megabytes of state. The rest of it is read while it goes out, some at a
// time, and all of it arrives, as far as the filter lets it through.
func TestLargeStateIsNotHeld(t *testing.T) {
	const n, large, hold = 100, 60_000, 4 << 20
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w, ctx := newWorld(t, db), context.Background()
		w.sync.HoldState(hold)
		text := fmt.Sprintf(`{"x":%q}`, strings.Repeat("x", large))
		first, last := w.create("alice", room.Creation{}), w.create("alice", room.Creation{})
		next := w.client("alice", `{"room":{"timeline":{"limit":1}}}`)
		next.next()
		for i := range n {
			for _, r := range []id.RoomID{first, last} {
				w.state(r, "alice", "test.large", fmt.Sprint(i), text)
			}
		}
		_, err := w.rooms.Redact(ctx, last, user("alice"), w.state(last, "alice", "test.large", "0", text), json.RawMessage(text), nil)
		w.must(err)
		w.say(first, "alice", "last")
		w.say(last, "alice", "last")
		for name, c := range map[string]*client{
			"next": next, "first": w.client("alice", ""), "limited": w.client("alice", fmt.Sprintf(`{"room":{"state":{"limit":%d}}}`, n-30)),
		} {
			got, err := w.sync.Sync(ctx, c.r)
			w.must(err)
			var out bytes.Buffer
			largest := 0
			w.must(got.Each(ctx, func(piece []byte) error {
				if len(piece) < len(got.Body)/2 {
					largest = max(largest, len(piece)) // what was not held
				}
				out.Write(piece)
				return nil
			}))
			got.Close()
			if len(got.Body) > hold+3<<20+2<<20 || largest > 4<<20 || got.Whole() {
				t.Errorf("%s: %d bytes are held, and then up to %d", name, len(got.Body), largest)
			}
			var a answer
			w.must(json.Unmarshal(out.Bytes(), &a))
			for r, j := range a.Rooms.Join {
				if told := len(j.State.Events); name == "limited" && told != n-30 || name != "limited" && told < n-20 {
					t.Errorf("%s: %d of %d events of the state are told of %s", name, told, n, r)
				}
			}
		}
		follower := &follower{*w.client("alice", `{}`), last, map[event.StateKeyTuple]ev{}}
		if problem := follower.check(follower.sync()); problem != "" {
			t.Error(problem)
		}
	})
}

// TestLargeAnswersHaveRoomByUser: answers that are not read yet take up so much memory for a user and for all. Who has the most
// of them loses what is being read.
func TestLargeAnswersHaveRoomByUser(t *testing.T) {
	const large = 60_000
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w, ctx := newWorld(t, db), context.Background()
		text := fmt.Sprintf(`{"x":%q}`, strings.Repeat("x", large))
		r := w.create("alice", room.Creation{})
		for i := range 16<<20/large + 10 {
			w.state(r, "alice", "test.large", fmt.Sprint(i), text)
		}
		for _, name := range []string{"bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy"} {
			w.join(r, name)
		}
		small := w.create("zoe", room.Creation{})
		w.say(small, "zoe", "hi")
		var open []clientsync.Answer
		lost := 0
		take := func(name string) error {
			got, err := w.sync.Sync(ctx, w.client(name, "").r)
			if err == nil {
				if got.Large() {
					got.Losable(func() { lost++ })
				}
				open = append(open, got)
			}
			return err
		}
		w.must(take("alice"))
		if err := take("alice"); !errors.Is(err, load.ErrBusy) {
			t.Errorf("a second answer that is as large: %v", err)
		}
		for _, name := range []string{"bob", "carol", "dave", "erin", "frank", "grace"} {
			w.must(take(name))
		}
		if err := take("heidi"); !errors.Is(err, load.ErrBusy) || lost > 0 {
			t.Errorf("one more who has as much: %v, %d lost theirs", err, lost)
		}
		if held := w.sync.Answers.Held(); held > 256<<20 || held < 200<<20 {
			t.Errorf("answers take up %d bytes", held)
		}
		w.must(take("zoe"))
		for i := range open {
			open[i].Close()
		}
		if held := w.sync.Answers.Held(); held != 0 {
			t.Errorf("in the end answers take up %d bytes", held)
		}
		w.must(take("heidi"))
		open[len(open)-1].Close()
	})
}

// TestTimelinesOfManyRoomsAreBounded: one event of each room may be too much, too. What is not shown stands before prev_batch.
func TestTimelinesOfManyRoomsAreBounded(t *testing.T) {
	const rooms, large = 320, 60_000
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w, text := newWorld(t, db), strings.Repeat("x", large)
		for i := range rooms {
			r := w.create("alice", room.Creation{CreationContent: map[string]json.RawMessage{"n": json.RawMessage(fmt.Sprint(i))}})
			w.say(r, "alice", text)
		}
		size := 0
		told := w.client("alice", `{"room":{"timeline":{"limit":1}}}`).next().Rooms.Join
		for name, j := range told {
			for _, e := range j.Timeline.Events {
				size += len(e.Content)
			}
			if !j.Timeline.Limited || j.Timeline.Prev == "" || len(j.State.Events) < 5 {
				t.Errorf("of %s is told %+v", name, j)
			}
		}
		if len(told) != rooms || size > 16<<20 || size < 15<<20 {
			t.Errorf("of %d rooms, %d bytes of timelines are told", len(told), size)
		}
	})
}

// TestReceiptsOfAllRoomsAreBounded: the receipts of all rooms of an answer have a bound, as have the names of who types. Each room
// has its newest ones.
func TestReceiptsOfAllRoomsAreBounded(t *testing.T) {
	const rooms, each, most = 10, 50, 100
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w, ctx := newWorld(t, db), context.Background()
		w.sync.NameMost(most)
		next := w.client("alice", "")
		var all []id.RoomID
		for i := range rooms {
			all = append(all, w.create("alice", room.Creation{CreationContent: map[string]json.RawMessage{"n": json.RawMessage(fmt.Sprint(i))}}))
		}
		next.next()
		read := w.client("alice", "")
		for _, r := range all {
			at := w.say(r, "alice", "hi")
			w.must(db.Update(ctx, func(tx *store.Tx) error {
				found, err := tx.Rooms.ByID(r)
				for i := range each {
					tx.Receipts.Set(store.Receipt{Room: found.NID, User: user(fmt.Sprint("u", i)), Type: "m.read", Event: at}, r, []id.UserID{user("alice")})
				}
				return err
			}))
		}
		for name, c := range map[string]*client{"next": next, "first": read} {
			sum := 0
			for r, j := range c.next().Rooms.Join {
				n := 0
				for _, e := range j.Ephemeral.Events {
					n += strings.Count(string(e.Content), `"ts"`)
				}
				if sum += n; n < 20 {
					t.Errorf("%s: %d receipts are told of %s", name, n, r)
				}
			}
			if sum > most+rooms*20 || sum < most {
				t.Errorf("%s: %d of %d receipts are told", name, sum, rooms*each)
			}
		}
		var typists []id.UserID
		for i := range each {
			name := fmt.Sprint("typist", i)
			for _, r := range all[:4] {
				w.join(r, name)
				w.must(w.eph.SetTyping(ctx, r, user(name), true, time.Minute))
			}
			typists = append(typists, user(name))
		}
		next.next()
		first := w.client("alice", `{"room":{"ephemeral":{"types":["m.typing"]}}}`).next()
		sum := 0
		for _, j := range first.Rooms.Join {
			for _, e := range j.Ephemeral.Events {
				sum += strings.Count(string(e.Content), "@typist")
			}
		}
		if sum > most+4*20 || sum < most {
			t.Errorf("%d of %d who type are told", sum, 4*len(typists))
		}
	})
}

// TestGapsAreFoundByPlaces: of the events that an event follows, which may be large, only the places are read.
func TestGapsAreFoundByPlaces(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w, ctx := newWorld(t, db), context.Background()
		found := w.stateOf(w.create("alice", room.Creation{}))[0]
		for _, c := range []struct {
			name string
			at   store.StateNID
			gap  bool
		}{{"refused", 1, false}, {"an outlier", 0, true}, {"missing", -1, true}} {
			prev := id.EventID("$" + strings.Replace(c.name, " ", "-", 1))
			if c.at >= 0 {
				nid, err := db.NextNumber(ctx)
				w.must(err)
				unread := &event.Event{ID: prev, JSON: []byte("this is not to be read")}
				w.must(db.Update(ctx, func(tx *store.Tx) error {
					return tx.Events.InsertAside(&store.Event{Event: unread, NID: store.EventNID(nid), Room: found.Room, StateBefore: c.at})
				}))
			}
			w.must(db.View(ctx, func(tx *store.Tx) error {
				ev := &store.Event{Event: &event.Event{Sender: "@x:two.test", PrevEvents: []id.EventID{found.ID, prev, prev}}, Position: 1}
				gap, err := w.sync.GapBefore(tx, ev)
				if gap != c.gap {
					t.Errorf("behind one that is %s: %v", c.name, gap)
				}
				return err
			}))
		}
	})
}
