package timeline_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

// TestVisibility goes through Client-Server API, "Room history visibility", "Server behaviour".
func TestVisibility(t *testing.T) {
	each(t, func(w *world) {
		for _, c := range []struct {
			setting string
			// What bob sees of the messages sent before an invite, while invited, while joined, after leaving, and
			// carol, who was never there.
			before, invited, joined, left, outside bool
		}{
			{"world_readable", true, true, true, true, true},
			{"shared", true, true, true, false, false},
			{"invited", false, true, true, false, false},
			{"joined", false, false, true, false, false},
		} {
			roomID := w.create(c.setting)
			before := w.say(roomID, "alice", "before")
			w.member(roomID, "alice", "bob", "invite")
			invited := w.say(roomID, "alice", "invited")
			w.member(roomID, "bob", "bob", "join")
			joined := w.say(roomID, "alice", "joined")
			w.member(roomID, "bob", "bob", "leave")
			left := w.say(roomID, "alice", "left")
			for _, look := range []struct {
				who   string
				what  id.EventID
				sees  bool
				title string
			}{
				{"bob", before, c.before, "before"}, {"bob", invited, c.invited, "invited"}, {"bob", joined, c.joined, "joined"},
				{"bob", left, c.left, "left"}, {"carol", joined, c.outside, "outside"}, {"alice", left, true, "alice"},
			} {
				_, err := w.Event(context.Background(), roomID, reader(look.who), look.what)
				if (err == nil) != look.sees || err != nil && !errors.Is(err, timeline.ErrNotFound) {
					w.Errorf("%s, %s: %v, want it to be seen: %v", c.setting, look.title, err, look.sees)
				}
			}
		}
	})
}

func TestMessages(t *testing.T) {
	each(t, func(w *world) {
		ctx := context.Background()
		roomID := w.create("shared")
		w.member(roomID, "bob", "bob", "join")
		for i := range 5 {
			w.say(roomID, []string{"alice", "bob"}[i%2], fmt.Sprint("m", i))
		}
		read := func(p timeline.Page) *timeline.Messages {
			w.Helper()
			m, err := w.Messages(ctx, roomID, reader("alice"), p)
			w.must(err)
			return m
		}
		newest := read(timeline.Page{Backwards: true, Limit: 3})
		w.equal("newest", w.bodies(newest.Chunk), "[m4 m3 m2]")
		older := read(timeline.Page{Backwards: true, Limit: 3, From: newest.End})
		w.equal("older", w.bodies(older.Chunk), "[m1 m0 join @bob:one.test]")
		w.equal("start", older.Start, newest.End)
		rest := read(timeline.Page{Backwards: true, Limit: 30, From: older.End})
		w.equal("rest", w.bodies(rest.Chunk), "[m.room.history_visibility m.room.join_rules m.room.power_levels join @alice:one.test m.room.create]")
		w.equal("end of rest", rest.End, "")
		ahead := read(timeline.Page{Limit: 2, From: older.End})
		w.equal("ahead", w.bodies(ahead.Chunk), "[join @bob:one.test m0]")
		w.equal("ahead up to a token", w.bodies(read(timeline.Page{Limit: 30, From: ahead.End, To: newest.End}).Chunk), "[m1]")
		w.equal("back down to a token", w.bodies(read(timeline.Page{Backwards: true, Limit: 30, From: newest.End, To: ahead.End}).Chunk), "[m1]")
		first := read(timeline.Page{Limit: 1})
		w.equal("from the beginning", w.bodies(first.Chunk), "[m.room.create]")
		lazy := read(timeline.Page{Backwards: true, Limit: 1, Filter: &filter.RoomEvents{LazyLoadMembers: true, Events: filter.Events{Senders: []id.UserID{user("bob")}}}})
		w.equal("lazy", w.bodies(lazy.Chunk)+w.bodies(lazy.State), "[m3][join @bob:one.test]")
		if _, err := w.Messages(ctx, roomID, reader("alice"), timeline.Page{From: "x"}); !errors.Is(err, stream.ErrBadToken) {
			w.Errorf("a bad token: %v", err)
		}
		if _, err := w.Messages(ctx, roomID, reader("carol"), timeline.Page{Limit: 1}); !errors.Is(err, timeline.ErrForbidden) {
			w.Errorf("an outsider: %v", err)
		}
		if _, err := w.Messages(ctx, "!none:one.test", reader("alice"), timeline.Page{Limit: 1}); !errors.Is(err, timeline.ErrForbidden) {
			w.Errorf("a room that does not exist: %v", err)
		}
	})
}

func TestDeparted(t *testing.T) {
	each(t, func(w *world) {
		ctx := context.Background()
		roomID := w.create("joined")
		w.member(roomID, "bob", "bob", "join")
		w.setState(roomID, "alice", "m.room.name", map[string]any{"name": "before"})
		w.say(roomID, "alice", "m1")
		w.member(roomID, "bob", "bob", "leave")
		w.setState(roomID, "alice", "m.room.name", map[string]any{"name": "after"})
		w.say(roomID, "alice", "m2")
		w.member(roomID, "carol", "carol", "join")

		page, err := w.Messages(ctx, roomID, reader("bob"), timeline.Page{Backwards: true, Limit: 2})
		w.must(err)
		w.equal("messages", w.bodies(page.Chunk), "[leave @bob:one.test m1]")
		page, err = w.Messages(ctx, roomID, reader("bob"), timeline.Page{From: page.Start, Limit: 100})
		w.must(err)
		w.equal("messages ahead", w.bodies(page.Chunk), "[]")
		name := event.StateKeyTuple{Type: "m.room.name"}
		for who, want := range map[string]string{"bob": `{"name":"before"}`, "alice": `{"name":"after"}`} {
			got, err := w.StateEvent(ctx, roomID, reader(who), name, false)
			w.must(err)
			w.equal("name for "+who, string(got), want)
		}
		members, err := w.members(roomID, reader("bob"), timeline.MemberQuery{})
		w.must(err)
		w.equal("members", w.bodies(members), "[join @alice:one.test leave @bob:one.test]")
		if _, err := w.joined(roomID, reader("bob")); !errors.Is(err, timeline.ErrForbidden) {
			w.Errorf("joined members: %v", err)
		}
		if _, err := w.StateEvent(ctx, roomID, reader("alice"), event.StateKeyTuple{Type: "m.room.topic"}, false); !errors.Is(err, timeline.ErrNotFound) {
			w.Errorf("state that is not there: %v", err)
		}
		w.must(w.Store.Update(ctx, func(tx *store.Tx) error {
			r, err := tx.Rooms.ByID(roomID)
			if err != nil {
				return err
			}
			return tx.Memberships.Forget(r.NID, user("bob"))
		}))
		if _, err := w.Messages(ctx, roomID, reader("bob"), timeline.Page{}); !errors.Is(err, timeline.ErrForbidden) {
			w.Errorf("a forgotten room: %v", err)
		}
	})
}

func TestMembers(t *testing.T) {
	each(t, func(w *world) {
		ctx := context.Background()
		roomID := w.create("shared")
		w.say(roomID, "alice", "m")
		then, err := w.Messages(ctx, roomID, reader("alice"), timeline.Page{Backwards: true, Limit: 1})
		w.must(err)
		w.member(roomID, "bob", "bob", "join")
		w.member(roomID, "carol", "carol", "join")
		w.member(roomID, "carol", "carol", "leave")
		for _, c := range []struct {
			q    timeline.MemberQuery
			want string
		}{
			{timeline.MemberQuery{}, "[join @alice:one.test join @bob:one.test leave @carol:one.test]"},
			{timeline.MemberQuery{Membership: "join"}, "[join @alice:one.test join @bob:one.test]"},
			{timeline.MemberQuery{Not: "join"}, "[leave @carol:one.test]"},
			{timeline.MemberQuery{At: then.End}, "[join @alice:one.test]"},
			{timeline.MemberQuery{At: "s0"}, "[join @alice:one.test]"},
		} {
			got, err := w.members(roomID, reader("alice"), c.q)
			w.must(err)
			w.equal(fmt.Sprint(c.q), w.bodies(got), c.want)
		}
		joined, err := w.joined(roomID, reader("bob"))
		w.must(err)
		if len(joined) != 2 {
			w.Errorf("joined: %v", joined)
		}
	})
}

// Who was in a room when its events are hidden is hidden as well: such a time is that of the reader's join.
func TestMembersOfATimeThatIsHidden(t *testing.T) {
	each(t, func(w *world) {
		ctx := context.Background()
		roomID := w.create("joined")
		w.member(roomID, "carol", "carol", "join")
		hidden, err := w.Messages(ctx, roomID, reader("alice"), timeline.Page{Backwards: true, Limit: 1})
		w.must(err)
		w.member(roomID, "carol", "carol", "leave")
		w.member(roomID, "bob", "bob", "join")
		w.member(roomID, "dave", "dave", "join")
		shown, err := w.Messages(ctx, roomID, reader("bob"), timeline.Page{Backwards: true, Limit: 1})
		w.must(err)
		w.member(roomID, "dave", "dave", "leave")
		for _, c := range []struct{ who, at, want string }{
			{"alice", hidden.Start, "[join @alice:one.test join @carol:one.test]"},
			{"bob", hidden.Start, "[join @alice:one.test leave @carol:one.test join @bob:one.test]"},
			{"bob", shown.Start, "[join @alice:one.test leave @carol:one.test join @bob:one.test join @dave:one.test]"},
		} {
			got, err := w.members(roomID, reader(c.who), timeline.MemberQuery{At: c.at})
			w.must(err)
			w.equal(c.who+" at "+c.at, w.bodies(got), c.want)
		}
	})
}

func TestUnsigned(t *testing.T) {
	each(t, func(w *world) {
		ctx := context.Background()
		roomID := w.create("shared")
		before := w.say(roomID, "alice", "before")
		w.member(roomID, "bob", "bob", "join")
		request := &store.RequestKey{User: user("alice"), Device: "alice-device", Scope: "send", TxnID: "t1"}
		own := w.send(room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.message", Content: content(map[string]any{"body": "x"}), Request: request})
		w.setState(roomID, "alice", "m.room.topic", map[string]any{"topic": "one"})
		topic := w.setState(roomID, "alice", "m.room.topic", map[string]any{"topic": "two"})
		doomed := w.say(roomID, "alice", "doomed")
		_, err := w.rooms.Redact(ctx, roomID, user("alice"), doomed, content(map[string]any{"reason": "r"}), nil)
		w.must(err)
		unsigned := func(r timeline.Reader, eventID id.EventID) map[string]any {
			w.Helper()
			raw, err := w.Event(ctx, roomID, r, eventID)
			w.must(err)
			return w.parse(raw).Unsigned
		}
		for _, c := range []struct {
			reader timeline.Reader
			what   id.EventID
			key    string
			want   any
		}{
			{reader("bob"), before, "membership", "leave"},
			{reader("bob"), own, "membership", "join"},
			{reader("alice"), own, "transaction_id", "t1"},
			{timeline.Reader{User: user("alice"), Device: "other"}, own, "transaction_id", nil},
			{reader("bob"), own, "transaction_id", nil},
			{reader("bob"), topic, "prev_content", map[string]any{"topic": "one"}},
		} {
			if got := unsigned(c.reader, c.what)[c.key]; fmt.Sprint(got) != fmt.Sprint(c.want) {
				w.Errorf("%s for %v: %v, want %v", c.key, c.reader, got, c.want)
			}
		}
		because, _ := unsigned(reader("bob"), doomed)["redacted_because"].(map[string]any)
		if because["type"] != event.TypeRedaction {
			w.Errorf("redacted because: %v", because)
		}
	})
}

func TestContext(t *testing.T) {
	each(t, func(w *world) {
		ctx := context.Background()
		roomID := w.create("shared")
		var ids []id.EventID
		for i := range 7 {
			ids = append(ids, w.say(roomID, "alice", fmt.Sprint("m", i)))
		}
		c, err := w.Context(ctx, roomID, reader("alice"), ids[3], 4, nil)
		w.must(err)
		w.equal("before", w.bodies(c.Before), "[m2 m1]")
		w.equal("after", w.bodies(c.After), "[m4 m5]")
		if len(c.State) != 5 {
			w.Errorf("the state has %d events", len(c.State))
		}
		back, err := w.Messages(ctx, roomID, reader("alice"), timeline.Page{From: c.Start, Backwards: true, Limit: 1})
		w.must(err)
		ahead, err := w.Messages(ctx, roomID, reader("alice"), timeline.Page{From: c.End, Limit: 1})
		w.must(err)
		w.equal("from its tokens", w.bodies(back.Chunk)+w.bodies(ahead.Chunk), "[m0][m6]")
		if c, err = w.Context(ctx, roomID, reader("alice"), ids[3], 0, nil); err != nil || len(c.Before)+len(c.After) != 0 {
			w.Errorf("a limit of 0: %+v, %v", c, err)
		}
		if _, err := w.Context(ctx, roomID, reader("carol"), ids[3], 4, nil); !errors.Is(err, timeline.ErrNotFound) {
			w.Errorf("an outsider: %v", err)
		}
	})
}

func TestEventAt(t *testing.T) {
	each(t, func(w *world) {
		ctx := context.Background()
		roomID := w.create("shared")
		at := func(ts int64) id.EventID {
			return w.send(room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.message", Content: content(map[string]any{"body": "x"}), Timestamp: ts})
		}
		const base = 4_000_000_000_000 // later than the events that made the room
		one, two, three, old := at(base+10), at(base+20), at(base+20), at(1000)
		for _, c := range []struct {
			ts      int64
			forward bool
			want    id.EventID
		}{
			{base + 10, true, one}, {base + 11, true, two}, {base + 20, true, two}, {base + 21, true, ""},
			{base + 30, false, three}, {base + 20, false, three}, {base + 19, false, one}, {1000, false, old}, {999, false, ""}, {0, true, old},
		} {
			got, _, err := w.EventAt(ctx, roomID, reader("alice"), c.ts, c.forward)
			if got != c.want || (err != nil) != (c.want == "") {
				w.Errorf("%d, forward %v: %s, %v, want %s", c.ts, c.forward, got, err, c.want)
			}
		}
		if _, _, err := w.EventAt(ctx, roomID, reader("carol"), base, true); !errors.Is(err, timeline.ErrForbidden) {
			w.Errorf("an outsider: %v", err)
		}
	})
}
