package ephemeral_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

const server id.ServerName = "one.test"

type world struct {
	*ephemeral.Service
	room id.RoomID

	mu   sync.Mutex
	sent []string // data units, each behind the servers that it goes to
}

// newWorld makes a room with @alice and, put in as another server's join would be, @bob:two.test.
func newWorld(t *testing.T, db *store.DB) *world {
	t.Helper()
	key, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	rooms := &room.Engine{Store: db, Server: server, Key: key, Log: log, DefaultVersion: event.DefaultVersion}
	roomID, err := rooms.Create(context.Background(), room.Creation{Creator: "@alice:one.test"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(context.Background(), func(tx *store.Tx) error {
		r, err := tx.Rooms.ByID(roomID)
		if err != nil {
			return err
		}
		return tx.Memberships.Set(store.Membership{Room: r.NID, User: "@bob:two.test", Membership: "join", Event: 1, Position: 1}, "", false)
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{room: roomID}
	// A second engine reads the room anew, with its other member.
	rooms = &room.Engine{Store: db, Server: server, Key: key, Log: log, DefaultVersion: event.DefaultVersion}
	w.Service = ephemeral.New(ephemeral.Options{Store: db, Server: server, Rooms: rooms, Log: log, SendEDU: func(servers []id.ServerName, edu []byte) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.sent = append(w.sent, fmt.Sprint(servers, " ", string(edu)))
	}})
	return w
}

// took returns what was sent since the last call.
func (w *world) took() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := strings.Join(w.sent, "\n")
	w.sent = nil
	return out
}

func TestTypingEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, storetest.Open(t, t.TempDir()+"/test.db"))
		ctx := context.Background()
		began := w.Volatile()
		if err := w.SetTyping(ctx, w.room, "@alice:one.test", true, 20*time.Second); err != nil {
			t.Fatal(err)
		}
		if got := w.took(); got != fmt.Sprintf(`[two.test] {"content":{"room_id":%q,"typing":true,"user_id":"@alice:one.test"},"edu_type":"m.typing"}`, w.room) {
			t.Errorf("other servers are sent %s", got)
		}
		time.Sleep(19 * time.Second)
		synctest.Wait()
		if got := w.Typing(w.room); len(got) != 1 {
			t.Errorf("after 19 of 20 seconds %v type", got)
		}
		middle := w.Volatile()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := w.Typing(w.room); len(got) != 0 || middle <= began || w.Volatile() <= middle {
			t.Errorf("after 21 of 20 seconds %v type", got)
		}
		all := func(id.RoomID) bool { return true }
		if len(w.TypingSince(middle, all)) != 1 || len(w.TypingSince(w.Volatile(), all)) != 0 {
			t.Error("the end of typing is not told once")
		}
	})
}

func TestPresenceEndsAndIsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, storetest.Open(t, t.TempDir()+"/test.db"))
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { w.Run(ctx) })
		defer running.Wait()
		defer cancel()
		state := func() string { s, _ := w.Presence("@alice:one.test"); return s.State }
		done, err := w.Syncing("@alice:one.test", "")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if state() != ephemeral.Online {
			t.Errorf("who syncs is %s", state())
		}
		if got := w.took(); strings.Count(got, "m.presence") != 1 || !strings.HasPrefix(got, "[two.test]") {
			t.Errorf("other servers are sent %s", got)
		}
		done()
		time.Sleep(time.Minute)
		if state() != ephemeral.Offline || !strings.Contains(w.took(), `"presence":"offline"`) {
			t.Errorf("who no longer syncs is %s", state())
		}
	})
}

// TestPresenceOfADeadServer has another server be silent; ours speak of who stays online.
func TestPresenceOfADeadServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, storetest.Open(t, t.TempDir()+"/test.db"))
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { w.Run(ctx) })
		defer running.Wait()
		defer cancel()
		done, err := w.Syncing("@alice:one.test", "")
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		time.Sleep(time.Second) // until others have been told of alice for the first time
		online := json.RawMessage(`{"push":[{"user_id":"@bob:two.test","presence":"online"}]}`)
		for range 2 {
			if err := w.ReceivePresence(ctx, "two.test", online); err != nil {
				t.Fatal(err)
			}
			w.took()
			time.Sleep(25 * time.Minute)
			if bob, _ := w.Presence("@bob:two.test"); bob.State != ephemeral.Online {
				t.Errorf("bob is %s although his server spoke of him", bob.State)
			}
			if got := w.took(); strings.Count(got, `"presence":"online"`) != 1 {
				t.Errorf("while alice stays online, other servers are sent %s", got)
			}
		}
		time.Sleep(10 * time.Minute)
		if bob, _ := w.Presence("@bob:two.test"); bob.State != ephemeral.Offline {
			t.Errorf("bob, whose server is silent, is %s", bob.State)
		}
	})
}

func TestReceivedUnits(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		ctx := context.Background()
		typing := func(origin id.ServerName, user id.UserID) error {
			return w.ReceiveTyping(ctx, origin, json.RawMessage(fmt.Sprintf(`{"room_id":%q,"user_id":%q,"typing":true}`, w.room, user)))
		}
		if err := typing("two.test", "@bob:two.test"); err != nil || len(w.Typing(w.room)) != 1 {
			t.Errorf("a member's typing is refused: %v", err)
		}
		if err := typing("three.test", "@bob:two.test"); !errors.Is(err, ephemeral.ErrInvalid) {
			t.Errorf("typing in another server's name: %v", err)
		}
		if err := typing("two.test", "@carol:two.test"); !errors.Is(err, room.ErrForbidden) {
			t.Errorf("typing of who is not in the room: %v", err)
		}
		receipt := func(origin id.ServerName, user id.UserID) error {
			return w.ReceiveReceipts(ctx, origin, json.RawMessage(fmt.Sprintf(
				`{%q:{"m.read":{%q:{"data":{"ts":1,"thread_id":"main"},"event_ids":["$x"]}},"m.read.private":{%q:{"data":{},"event_ids":["$y"]}}}}`, w.room, user, user)))
		}
		if err := receipt("two.test", "@bob:two.test"); err != nil {
			t.Errorf("a member's receipt is refused: %v", err)
		}
		mixed := fmt.Sprintf(`{%q:{"m.read":{"@bob:two.test":{"data":{"ts":2,"thread_id":"main"},"event_ids":["$z"]},"@carol:two.test":{"data":{},"event_ids":["$z"]},
			"@dave:three.test":{"data":{},"event_ids":["$z"]}}},"!other:one.test":{"m.read":{"@bob:two.test":{"data":{},"event_ids":["$z"]}}}}`, w.room)
		if err := w.ReceiveReceipts(ctx, "two.test", json.RawMessage(mixed)); !errors.Is(err, ephemeral.ErrInvalid) || !errors.Is(err, room.ErrForbidden) {
			t.Errorf("receipts of which only one is right: %v", err)
		}
		if err := receipt("three.test", "@bob:two.test"); !errors.Is(err, ephemeral.ErrInvalid) {
			t.Errorf("a receipt in another server's name: %v", err)
		}
		err := db.View(ctx, func(tx *store.Tx) error {
			r, err := tx.Rooms.ByID(w.room)
			if err != nil {
				return err
			}
			list, err := tx.Receipts.ByUser(r.NID, "@bob:two.test")
			if len(list) != 1 || list[0].Event != "$z" || list[0].Thread != "main" || list[0].Type != ephemeral.Read {
				t.Errorf("the receipts are %+v", list)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		err = w.ReceivePresence(ctx, "two.test", json.RawMessage(`{"push":[{"user_id":"@bob:two.test","presence":"online","last_active_ago":5},
			{"user_id":"@stranger:two.test","presence":"online"},{"user_id":"@alice:one.test","presence":"unavailable"}]}`))
		if err != nil {
			t.Error(err)
		}
		for user, want := range map[id.UserID]string{"@bob:two.test": ephemeral.Online, "@stranger:two.test": ephemeral.Offline, "@alice:one.test": ephemeral.Offline} {
			if got, _ := w.Presence(user); got.State != want {
				t.Errorf("%s is %s, not %s", user, got.State, want)
			}
		}
	})
}

// TestLateUnitsOfALeftRoom: nothing is kept of those who were in a room when this server left it.
func TestLateUnitsOfALeftRoom(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		ctx := context.Background()
		if err := w.Rooms.Leave(ctx, room.Change{Room: w.room, Sender: "@alice:one.test", Target: "@alice:one.test"}); err != nil {
			t.Fatal(err)
		}
		typing := fmt.Sprintf(`{"room_id":%q,"user_id":"@bob:two.test","typing":true}`, w.room)
		if err := w.ReceiveTyping(ctx, "two.test", json.RawMessage(typing)); err != nil || len(w.Typing(w.room)) != 0 {
			t.Errorf("typing are %v, %v", w.Typing(w.room), err)
		}
		receipt := fmt.Sprintf(`{%q:{"m.read":{"@bob:two.test":{"data":{"ts":1},"event_ids":["$x"]}}}}`, w.room)
		if err := w.ReceiveReceipts(ctx, "two.test", json.RawMessage(receipt)); !errors.Is(err, room.ErrNotFound) {
			t.Errorf("a receipt: %v", err)
		}
		err := db.View(ctx, func(tx *store.Tx) error {
			r, err := tx.Rooms.ByID(w.room)
			if err != nil {
				return err
			}
			list, err := tx.Receipts.ByUser(r.NID, "@bob:two.test")
			if len(list) != 0 {
				t.Errorf("the receipts are %+v", list)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestMarks(t *testing.T) {
	w := newWorld(t, storetest.Open(t, t.TempDir()+"/test.db"))
	ctx := context.Background()
	hi, err := w.Rooms.Send(ctx, room.Message{Room: w.room, Sender: "@alice:one.test", Type: "m.room.message", Content: json.RawMessage(`{}`)})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []ephemeral.Mark{
		{Type: "m.other", Event: hi}, {Type: ephemeral.Read, Event: "x"}, {Type: ephemeral.FullyRead, Event: hi, Thread: "main"},
		{Type: ephemeral.Read, Event: hi, Thread: "$" + strings.Repeat("x", 255)}, {Type: ephemeral.Read, Event: hi, Thread: "zz"},
		{Type: ephemeral.Read, Event: "$x"}, {Type: ephemeral.FullyRead, Event: "$x"},
		{Type: ephemeral.Read, Event: hi, Thread: "\x00"},
	} {
		if err := w.SetMarks(ctx, w.room, "@alice:one.test", m); err == nil {
			t.Errorf("%+v was accepted", m)
		}
	}
	if err := w.SetMarks(ctx, w.room, "@mallory:one.test", ephemeral.Mark{Type: ephemeral.Read, Event: "$x"}); !errors.Is(err, room.ErrForbidden) {
		t.Errorf("a receipt of who is not in the room: %v", err)
	}
	var queued []store.OutboxRow
	err = w.SetMarks(ctx, w.room, "@alice:one.test", ephemeral.Mark{Type: ephemeral.Read, Event: hi}, ephemeral.Mark{Type: ephemeral.ReadPrivate, Event: hi})
	if err == nil {
		err = w.Store.View(ctx, func(tx *store.Tx) (err error) {
			queued, _, err = tx.Outbox.Next("two.test", 0, 10, 1<<20)
			return err
		})
	}
	// The first is the message itself.
	if err != nil || len(queued) != 2 || !strings.Contains(string(queued[1].EDU), `"m.read":`) {
		t.Errorf("queued is %+v, %v", queued, err)
	}
}

// TestThreadsOfReceipts: a receipt is for a thread that its event is in (Client-Server API, POST
// /rooms/{roomId}/receipt), whoever sends it.
func TestThreadsOfReceipts(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w, ctx := newWorld(t, db), context.Background()
		send := func(content string) id.EventID {
			t.Helper()
			e, err := w.Rooms.Send(ctx, room.Message{Room: w.room, Sender: "@alice:one.test", Type: "m.room.message", Content: json.RawMessage(content)})
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		relating := func(relType string, to id.EventID) id.EventID {
			t.Helper()
			return send(fmt.Sprintf(`{"body":"x","msgtype":"m.text","m.relates_to":{"rel_type":%q,"event_id":%q}}`, relType, to))
		}
		root, other := send(`{"body":"x","msgtype":"m.text"}`), send(`{"body":"x","msgtype":"m.text"}`)
		inside := relating("m.thread", root)
		about := relating("m.reference", inside)
		for _, test := range []struct {
			event  id.EventID
			thread string
			valid  bool
		}{
			{other, "main", true}, {root, "main", true}, {root, string(root), true}, {other, string(root), false}, {inside, "main", false},
			{inside, string(root), true}, {inside, string(other), false}, {about, string(root), true}, {about, "main", false}, {about, string(other), false}, {inside, "", true},
		} {
			err := w.SetMarks(ctx, w.room, "@alice:one.test", ephemeral.Mark{Type: ephemeral.Read, Event: test.event, Thread: test.thread})
			if test.valid != (err == nil) || err != nil && !errors.Is(err, ephemeral.ErrInvalid) {
				t.Errorf("%s in %q: %v", test.event, test.thread, err)
			}
		}
		unit := func(event, thread id.EventID) json.RawMessage {
			return json.RawMessage(fmt.Sprintf(`{%q:{"m.read":{"@bob:two.test":{"data":{"ts":1,"thread_id":%q},"event_ids":[%q]}}}}`, w.room, thread, event))
		}
		has := func(thread id.EventID) (ok bool) {
			t.Helper()
			err := db.View(ctx, func(tx *store.Tx) error {
				r, err := tx.Rooms.ByID(w.room)
				if err == nil {
					_, ok, err = tx.Receipts.Get(r.NID, "@bob:two.test", ephemeral.Read, string(thread))
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return ok
		}
		for _, test := range []struct {
			event id.EventID
			taken bool
		}{{other, false}, {inside, true}} {
			if err := w.ReceiveReceipts(ctx, "two.test", unit(test.event, root)); err != nil || has(root) != test.taken {
				t.Errorf("a receipt of another server for %s is taken: %t, %v", test.event, has(root), err)
			}
		}
		if err := w.ReceiveReceipts(ctx, "two.test", unit(inside, other)); err != nil || has(other) {
			t.Errorf("a receipt of another server for another thread is taken: %v", err)
		}
	})
}

// TestMarksStayAtTheNewest sets receipts and markers for an older event behind those for a newer one, in one transaction.
func TestMarksStayAtTheNewest(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w, ctx := newWorld(t, db), t.Context()
		var events [2]id.EventID
		for i := range events {
			sent, err := w.Rooms.Send(ctx, room.Message{Room: w.room, Sender: "@alice:one.test", Type: "m.room.message", Content: json.RawMessage(`{}`)})
			if err != nil {
				t.Fatal(err)
			}
			events[i] = sent
		}
		var marks []ephemeral.Mark
		for _, e := range []id.EventID{events[1], events[0]} {
			marks = append(marks, ephemeral.Mark{Type: ephemeral.Read, Event: e}, ephemeral.Mark{Type: ephemeral.FullyRead, Event: e})
		}
		if err := w.SetMarks(ctx, w.room, "@alice:one.test", marks...); err != nil {
			t.Fatal(err)
		}
		err := db.View(ctx, func(tx *store.Tx) error {
			here, err := tx.Rooms.ByID(w.room)
			if err != nil {
				return err
			}
			if r, _, err := tx.Receipts.Get(here.NID, "@alice:one.test", ephemeral.Read, ""); err != nil || r.Event != events[1] {
				t.Errorf("the receipt is for %s and not %s, %v", r.Event, events[1], err)
			}
			marker, _, err := tx.AccountData.Get("@alice:one.test", w.room, ephemeral.FullyRead)
			if !strings.Contains(string(marker), string(events[1])) {
				t.Errorf("the marker is %s and not %s", marker, events[1])
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// TestReceiptsForASilentServerDoNotPileUp: of what a user has read in a room, or in a thread of it, the newest waits.
func TestReceiptsForASilentServerDoNotPileUp(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w, newest := newWorld(t, db), id.EventID("")
		for range 5 {
			hi, err := w.Rooms.Send(t.Context(), room.Message{Room: w.room, Sender: "@alice:one.test", Type: "m.room.message", Content: json.RawMessage(`{}`)})
			if err != nil {
				t.Fatal(err)
			}
			for _, thread := range []string{"", ephemeral.MainThread} {
				if err := w.SetMarks(t.Context(), w.room, "@alice:one.test", ephemeral.Mark{Type: ephemeral.Read, Event: hi, Thread: thread}); err != nil {
					t.Fatal(err)
				}
			}
			newest = hi
		}
		var receipts []string
		err := db.View(t.Context(), func(tx *store.Tx) error {
			queued, _, err := tx.Outbox.Next("two.test", 0, 100, 1<<20)
			for _, r := range queued {
				if r.Event == 0 {
					receipts = append(receipts, string(r.EDU))
				}
			}
			return err
		})
		if err != nil || len(receipts) != 2 || !strings.Contains(receipts[0], string(newest)) || !strings.Contains(receipts[1], string(newest)) ||
			strings.Contains(receipts[0], "thread_id") || !strings.Contains(receipts[1], "thread_id") {
			t.Errorf("%v: %q wait", err, receipts)
		}
	})
}
