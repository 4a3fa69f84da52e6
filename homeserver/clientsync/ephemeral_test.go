package clientsync_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

func (w *world) read(r id.RoomID, name, typ string, e id.EventID, thread string) {
	w.t.Helper()
	w.must(w.eph.SetMarks(context.Background(), r, user(name), ephemeral.Mark{Type: typ, Event: e, Thread: thread}))
}

// TestUnread follows the timeline of the specification's threads: A and D in the main one, B, C and E in a thread of A.
func TestUnread(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{})
		w.join(r, "bob")
		w.join(r, "carol")
		whole, threads := w.client("bob", ""), w.client("bob", `{"room":{"timeline":{"unread_thread_notifications":true}}}`)
		whole.next()
		threads.next()
		inThread := func(root id.EventID, body string) id.EventID {
			return w.send(r, "alice", "m.room.message", fmt.Sprintf(`{"body":%q,"m.relates_to":{"rel_type":"m.thread","event_id":%q}}`, body, root))
		}
		a := w.say(r, "alice", "A")
		b := inThread(a, "B")
		inThread(a, "for bob: C")
		d := w.say(r, "alice", "for bob: D")
		inThread(a, "E")
		w.send(r, "alice", "m.reaction", fmt.Sprintf(`{"m.relates_to":{"rel_type":"m.annotation","event_id":%q,"key":"x"}}`, a))
		want := func(step string, all, main, thread counts) {
			t.Helper()
			if got := whole.next().Rooms.Join[r]; got.Unread != all || got.Threads != nil {
				t.Errorf("%s: unread are %+v, %+v, not %+v", step, got.Unread, got.Threads, all)
			}
			if got := threads.next().Rooms.Join[r]; got.Unread != main || got.Threads[string(a)] != thread {
				t.Errorf("%s: unread by threads are %+v, %+v, not %+v, %+v", step, got.Unread, got.Threads, main, thread)
			}
		}
		want("at first", counts{2, 5}, counts{1, 2}, counts{1, 3})
		w.read(r, "bob", ephemeral.Read, a, "main")
		want("after A in main", counts{2, 4}, counts{1, 1}, counts{1, 3})
		w.read(r, "bob", ephemeral.ReadPrivate, b, string(a))
		want("after B in the thread", counts{2, 3}, counts{1, 1}, counts{1, 2})
		w.read(r, "bob", ephemeral.Read, d, "")
		want("after D in all", counts{0, 1}, counts{0, 0}, counts{0, 1})
		w.say(r, "alice", "F")
		want("after another message", counts{0, 2}, counts{0, 1}, counts{0, 1})
		w.say(r, "bob", "answer")
		want("after writing", counts{0, 1}, counts{0, 0}, counts{0, 1})
	})
}

// TestUnreadAfterRedaction: what is unread is the same for who has followed the room and for a server that has just
// started.
func TestUnreadAfterRedaction(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{})
		w.join(r, "bob")
		bob := w.client("bob", "")
		bob.next()
		root, loud := w.say(r, "alice", "A"), w.say(r, "alice", "for bob: B")
		within := fmt.Sprintf(`{"body":"C","m.relates_to":{"rel_type":"m.thread","event_id":%q}}`, root)
		w.send(r, "alice", "m.room.message", within)
		answer := w.send(r, "bob", "m.room.message", within) // so what stands above it in the thread is read
		want := func(step string, all counts) {
			t.Helper()
			restarted := newWorld(t, db).client("bob", "")
			for name, c := range map[string]*client{"a device that follows": bob, "the first sync after a start": restarted} {
				if got := c.next().Rooms.Join[r].Unread; got != all {
					t.Errorf("%s: unread are %+v for %s, not %+v", step, got, name, all)
				}
			}
		}
		redact := func(sender string, e id.EventID) {
			t.Helper()
			_, err := w.rooms.Redact(context.Background(), r, user(sender), e, json.RawMessage(`{}`), nil)
			w.must(err)
		}
		want("at first", counts{1, 2})
		redact("alice", loud)
		want("after the redaction of a mention", counts{0, 1})
		redact("alice", answer)
		want("after the redaction of one's own", counts{0, 2})
		w.must(db.Update(t.Context(), func(tx *store.Tx) error {
			tx.AccountData.Set(user("bob"), "", "m.ignored_user_list", json.RawMessage(`{"ignored_users":{"@alice:one.test":{}}}`))
			return nil
		}))
		w.state(r, "alice", "m.room.topic", "", `{"topic":"x"}`)
		want("after alice was ignored", counts{})
	})
}

func TestReceiptsAreShown(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{})
		w.join(r, "bob")
		alice, bob := w.client("alice", ""), w.client("bob", "")
		one, two := w.say(r, "alice", "one"), w.say(r, "alice", "two")
		alice.next()
		bob.next()
		w.read(r, "bob", ephemeral.ReadPrivate, two, "")
		if a := alice.next(); !a.empty {
			t.Errorf("a private receipt is told to others: %+v", a.Rooms)
		}
		w.read(r, "bob", ephemeral.Read, two, "")
		w.read(r, "bob", ephemeral.Read, two, "main")
		w.read(r, "bob", ephemeral.Read, one, "") // backwards
		receipts := func(c *client) string {
			e := c.next().Rooms.Join[r].Ephemeral.Events
			if len(e) != 1 {
				return fmt.Sprint(len(e), " events")
			}
			var content map[id.EventID]map[string]map[id.UserID]struct {
				Thread string `json:"thread_id"`
			}
			w.must(json.Unmarshal(e[0].Content, &content))
			var out []string
			for event, types := range content {
				for typ, users := range types {
					for u, x := range users {
						out = append(out, fmt.Sprint(map[id.EventID]string{one: "one", two: "two"}[event], " ", typ, " ", u.Localpart(), " ", x.Thread))
					}
				}
			}
			slices.Sort(out)
			return strings.Join(out, ", ")
		}
		check(t, "what alice sees", receipts(alice), "two m.read bob ")
		check(t, "what bob sees", receipts(bob), "two m.read bob , two m.read.private bob ")
		check(t, "what a new device sees", receipts(w.client("alice", "")), "two m.read bob ")
	})
}

func TestTypingIsShown(t *testing.T) {
	w := newWorld(t, storetest.Open(t, t.TempDir()+"/test.db"))
	r, other := w.create("alice", room.Creation{}), w.create("carol", room.Creation{})
	bob := w.client("bob", "")
	w.join(r, "bob")
	bob.next()
	ctx := context.Background()
	w.must(w.eph.SetTyping(ctx, other, user("carol"), true, 0))
	if a := bob.next(); !a.empty {
		t.Error("typing in another room is told")
	}
	bob.r.Timeout = time.Minute
	got := make(chan *answer)
	go func() { got <- bob.next() }()
	w.must(w.eph.SetTyping(ctx, r, user("alice"), true, time.Hour))
	typing := func(a *answer) string {
		for _, e := range a.Rooms.Join[r].Ephemeral.Events {
			return string(e.Content)
		}
		return ""
	}
	check(t, "who types", typing(<-got), `{"user_ids":["@alice:one.test"]}`)
	w.must(w.eph.SetTyping(ctx, r, user("alice"), false, 0))
	check(t, "who types", typing(bob.next()), `{"user_ids":[]}`)
	if err := w.eph.SetTyping(ctx, r, user("dave"), true, 0); err == nil {
		t.Error("who is not in a room can type there")
	}
}

func TestPresenceIsShown(t *testing.T) {
	w := newWorld(t, storetest.Open(t, t.TempDir()+"/test.db"))
	r := w.create("alice", room.Creation{})
	bob := w.client("bob", "")
	w.must(w.eph.SetPresence(user("alice"), ephemeral.Online, "here"))
	if a := bob.next(); len(a.Presence.Events) != 0 {
		t.Error("the presence of a stranger is told")
	}
	w.join(r, "bob")
	a := bob.next()
	if len(a.Presence.Events) != 1 || !strings.Contains(string(a.Presence.Events[0].Content), `"status_msg":"here"`) {
		t.Errorf("presence is %+v", a.Presence)
	}
	if a := bob.next(); !a.empty {
		t.Error("presence is told again")
	}
	w.must(w.eph.SetPresence(user("alice"), ephemeral.Unavailable, ""))
	if a := bob.next(); len(a.Presence.Events) != 1 || a.Presence.Events[0].Sender != user("alice") {
		t.Errorf("presence is %+v", a.Presence)
	}
}

func TestToDevice(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		bob := w.client("bob", "")
		bob.next()
		r := w.create("alice", room.Creation{})
		send := func(n int) {
			var list []store.ToDeviceMessage
			for i := range n {
				raw := json.RawMessage(fmt.Sprintf(`{"sender":"@alice:one.test","type":"t","content":{"body":"%d"}}`, i))
				list = append(list, store.ToDeviceMessage{User: user("bob"), Device: "BOB", JSON: raw})
			}
			w.must(w.db.Update(context.Background(), func(tx *store.Tx) error { tx.ToDevice.Add(list); return nil }))
		}
		send(150)
		w.join(r, "bob")
		before := *bob.r.Since
		if a := bob.next(); len(a.ToDevice.Events) != 100 || len(a.Rooms.Join) != 0 {
			t.Errorf("%d messages and %d rooms are told", len(a.ToDevice.Events), len(a.Rooms.Join))
		}
		bob.r.Since = &before // the answer was lost
		if a := bob.next(); len(a.ToDevice.Events) != 100 || bodies(a.ToDevice.Events[99:]) != "99" {
			t.Error("messages of a lost answer are not told again")
		}
		if a := bob.next(); len(a.ToDevice.Events) != 50 || len(a.Rooms.Join) != 1 {
			t.Errorf("then %d messages and %d rooms are told", len(a.ToDevice.Events), len(a.Rooms.Join))
		}
		if a := bob.next(); !a.empty {
			t.Error("messages are told again")
		}
		w.must(w.db.Update(context.Background(), func(*store.Tx) error { return nil })) // behind the deletions
		w.must(w.db.View(context.Background(), func(tx *store.Tx) error {
			left, err := tx.ToDevice.Any(user("bob"), "BOB", 1<<40)
			if left {
				t.Error("messages that have arrived are kept")
			}
			return err
		}))
	})
}
