package room_test

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// link is a Remote that asks the engine of the other server without a network between them.
type link struct {
	room.Remote
	from id.ServerName
	to   *room.Engine
	keys map[id.ServerName]sign.Key
}

func (l *link) MakeMembership(ctx context.Context, _ id.ServerName, membership string, roomID id.RoomID, user id.UserID) (id.RoomVersion, json.RawMessage, error) {
	return l.to.MakeMembership(ctx, user.Server(), membership, roomID, user, event.Versions())
}

func (l *link) SendJoin(ctx context.Context, _ id.ServerName, join *event.Event) (*room.Joined, error) {
	answer, err := l.to.ReceiveJoin(ctx, join.Sender.Server(), join.RoomID, join.ID, join.JSON, false)
	if err != nil {
		return nil, err
	}
	out := &room.Joined{Event: answer.Event.JSON}
	for list, into := range map[*[]*store.Event]*[]json.RawMessage{&answer.State: &out.State, &answer.AuthChain: &out.AuthChain} {
		err := l.to.EachWhole(ctx, *list, func(events []*store.Event) error {
			for _, ev := range events {
				*into = append(*into, ev.JSON)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (l *link) Backfill(ctx context.Context, _ id.ServerName, roomID id.RoomID, from []id.EventID, limit int) (out []json.RawMessage, err error) {
	events, err := l.to.BackfillFor(ctx, l.from, roomID, from, limit)
	for _, ev := range events {
		out = append(out, ev.JSON)
	}
	return out, err
}

func (l *link) StateIDs(ctx context.Context, _ id.ServerName, roomID id.RoomID, at id.EventID) (state, auth []id.EventID, err error) {
	s, a, err := l.to.StateAt(ctx, l.from, roomID, at)
	for _, ev := range s {
		state = append(state, ev.ID)
	}
	for _, ev := range a {
		auth = append(auth, ev.ID)
	}
	return state, auth, err
}

func (l *link) Event(ctx context.Context, _ id.ServerName, at id.EventID) (json.RawMessage, error) {
	ev, err := l.to.EventFor(ctx, l.from, at)
	if err != nil {
		return nil, err
	}
	return ev.JSON, nil
}

func (l *link) Verify(_ context.Context, _ id.ServerName, events []*event.Event) []room.VerifyResult {
	out := make([]room.VerifyResult, len(events))
	for i, ev := range events {
		out[i].Verified, out[i].Err = event.Verify(ev, func(s id.ServerName, keyID id.KeyID, _ int64) (ed25519.PublicKey, bool) {
			key, ok := l.keys[s]
			if !ok || key.ID != keyID {
				return nil, false
			}
			return ed25519.PublicKey(key.Public()), true
		})
	}
	return out
}

const otherServer id.ServerName = "two.test"

// pair is the engine of the database with that of another server.
func pair(t testing.TB, db *store.DB) (one, two *room.Engine) {
	t.Helper()
	one, two = engine(t, db), engine(t, storetest.Open(t, filepath.Join(t.TempDir(), "two.db")))
	two.Server = otherServer
	keys := map[id.ServerName]sign.Key{one.Server: one.Key, two.Server: two.Key}
	one.Remote, two.Remote = &link{from: one.Server, to: two, keys: keys}, &link{from: two.Server, to: one, keys: keys}
	return one, two
}

func send(t *testing.T, e *room.Engine, m room.Message) *store.Event {
	t.Helper()
	if m.Content == nil {
		m.Content = json.RawMessage(`{"body":"hi"}`)
	}
	eventID, err := e.Send(context.Background(), m)
	if err != nil {
		t.Fatal(err)
	}
	var ev *store.Event
	err = e.Store.View(context.Background(), func(tx *store.Tx) error {
		ev, err = tx.Events.Get(eventID)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

func deliver(t *testing.T, from, to *room.Engine, ev *store.Event) {
	t.Helper()
	for _, r := range to.Receive(context.Background(), from.Server, ev.RoomID, []json.RawMessage{ev.JSON}) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

func collect(t *testing.T, e *room.Engine, now time.Time) room.Collected {
	t.Helper()
	done, err := e.Collect(context.Background(), now)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// statesOf reads the state before each event of a room, and the current one.
func statesOf(t *testing.T, db *store.DB, roomID id.RoomID) map[store.StateNID]map[int64]store.EventNID {
	t.Helper()
	out := map[store.StateNID]map[int64]store.EventNID{}
	events := timeline(t, db, roomID)
	err := db.View(context.Background(), func(tx *store.Tx) error {
		r, err := tx.Rooms.ByID(roomID)
		if err != nil {
			return err
		}
		head, err := tx.Rooms.Head(r.NID)
		if err != nil {
			return err
		}
		nids := []store.StateNID{head.State}
		for _, ev := range events {
			nids = append(nids, ev.StateBefore)
		}
		for _, n := range nids {
			s, err := tx.States.Get(n)
			if err != nil {
				return err
			}
			out[n] = maps.Collect(s.Map.All)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestForksAreCollected has two servers change a room's state at the same time again and again: what the resolved
// forks leave behind goes, and every state that is left is what it was.
func TestForksAreCollected(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		db := storetest.Open(t, address)
		one, two := pair(t, db)
		open := map[string]json.RawMessage{"state_default": json.RawMessage("0")}
		roomID := create(t, one, room.Creation{Preset: "public_chat", PowerOverride: open})
		bob := id.UserID("@bob:" + string(otherServer))
		if err := two.Join(context.Background(), room.Change{Room: roomID, Sender: bob, Target: bob, Via: []id.ServerName{server}}); err != nil {
			t.Fatal(err)
		}
		for i := range 40 {
			key, content := fmt.Sprint("k", i%7), json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))
			a := send(t, one, room.Message{Room: roomID, Sender: user("alice"), Type: "test.a", StateKey: &key, Content: content})
			b := send(t, two, room.Message{Room: roomID, Sender: bob, Type: "test.b", StateKey: &key, Content: content})
			deliver(t, one, two, a)
			deliver(t, two, one, b)
		}
		want := statesOf(t, db, roomID)
		now := time.Now()
		if done := collect(t, one, now); done.States != 0 {
			t.Errorf("%d states went at once", done.States)
		}
		deleted := 0
		for range 5 {
			now = now.Add(2 * time.Hour)
			deleted += collect(t, one, now).States
		}
		if deleted == 0 {
			t.Error("nothing was collected")
		}
		got := statesOf(t, storetest.Open(t, address), roomID)
		if !maps.EqualFunc(got, want, func(a, b map[int64]store.EventNID) bool { return maps.Equal(a, b) }) {
			t.Error("the states are no longer what they were")
		}
		send(t, one, room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.message"})
	})
}

// TestCollectTakesTurns has another process hold the lease.
func TestCollectTakesTurns(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, _ := pair(t, db)
		now := time.Now()
		err := db.Update(context.Background(), func(tx *store.Tx) error {
			if err := tx.States.Unused(12345); err != nil {
				return err
			}
			_, err := tx.Leases.Take("collect", "another", now, now.Add(time.Minute))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		listed := func() (n int) {
			err := db.View(context.Background(), func(tx *store.Tx) error {
				list, err := tx.States.ListUnused(time.Time{}, 10)
				n = len(list)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if collect(t, one, now); listed() != 1 {
			t.Error("two processes collect at once")
		}
		if collect(t, one, now.Add(2*time.Minute)); listed() != 0 {
			t.Error("the lease of a dead process never ends")
		}
	})
}

// joinedThere has alice join a room of the other server, with all that a purge has to delete.
func joinedThere(t *testing.T, one, two *room.Engine) id.RoomID {
	t.Helper()
	bob := id.UserID("@bob:" + string(otherServer))
	// Who may redact may do so before the event comes.
	roomID, err := two.Create(context.Background(), room.Creation{Creator: bob, Preset: "public_chat", PowerOverride: map[string]json.RawMessage{"redact": json.RawMessage("0")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	rejoin(t, one, roomID)
	root := send(t, one, room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.message"})
	for i := range 150 {
		content := json.RawMessage(fmt.Sprintf(`{"body":"%d","m.relates_to":{"rel_type":"m.thread","event_id":"%s"}}`, i, root.ID))
		send(t, one, room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.message", Content: content})
	}
	err = one.Store.Update(context.Background(), func(tx *store.Tx) error {
		tx.Receipts.Set(store.Receipt{Room: root.Room, User: user("alice"), Type: "m.read", Event: root.ID, EventAt: root.Position}, roomID, nil)
		if err := tx.Relations.AwaitTarget(root.Room, "$nosuch", store.Everybody, store.Everybody, root.NID); err != nil {
			return err
		}
		if err := tx.States.SetAt(root.Room, root.Position, root.StateBefore); err != nil {
			return err
		}
		return tx.Relations.AddMissing(root.Room, store.Missing{ID: "$older", Child: root.NID})
	})
	if err != nil {
		t.Fatal(err)
	}
	return roomID
}

func rejoin(t testing.TB, e *room.Engine, roomID id.RoomID) {
	t.Helper()
	err := e.Join(context.Background(), room.Change{Room: roomID, Sender: user("alice"), Target: user("alice"), Via: []id.ServerName{otherServer}})
	if err != nil {
		t.Fatal(err)
	}
}

// leaveForGood leaves and forgets, and has the other server hear of it unless it is to wait.
func leaveForGood(t *testing.T, e *room.Engine, roomID id.RoomID, delivered bool) (nid store.RoomNID) {
	t.Helper()
	if err := e.Leave(context.Background(), room.Change{Room: roomID, Sender: user("alice")}); err != nil {
		t.Fatal(err)
	}
	err := e.Store.Update(context.Background(), func(tx *store.Tx) error {
		r, err := tx.Rooms.ByID(roomID)
		if err != nil {
			return err
		}
		nid = r.NID
		if delivered {
			if err := tx.Outbox.Delete(otherServer, math.MaxInt64); err != nil {
				return err
			}
		}
		return tx.Memberships.Forget(nid, user("alice"))
	})
	if err != nil {
		t.Fatal(err)
	}
	return nid
}

// rowsOf counts the rows of a room in all tables that name rooms by number, whatever these are.
func rowsOf(t *testing.T, address string, nid store.RoomNID) map[string]int {
	t.Helper()
	driver, tables := "sqlite", `SELECT m.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND c.name = 'room_nid'`
	if strings.HasPrefix(address, "postgres") {
		driver, tables = "pgx", `SELECT table_name FROM information_schema.columns WHERE column_name = 'room_nid' AND table_schema = 'public'`
	}
	db, err := sql.Open(driver, address)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(tables)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	out := map[string]int{}
	for _, name := range names {
		var n int
		if err := db.QueryRow(fmt.Sprintf(`SELECT count(*) FROM %s WHERE room_nid = %d`, name, nid)).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			out[name] = n
		}
	}
	return out
}

// onlyNumber is what a purged room leaves: its number and an empty head.
var onlyNumber = map[string]int{"room_heads": 1}

func TestForgottenRoomGoes(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		db := storetest.Open(t, address)
		one, two := pair(t, db)
		kept, roomID := joinedThere(t, one, two), joinedThere(t, one, two)
		keptEvents, keptStates := len(timeline(t, db, kept)), len(statesOf(t, db, kept))
		nid := leaveForGood(t, one, roomID, false)
		for _, table := range []string{"events", "state_snapshots", "memberships", "membership_log", "relations", "relation_groups", "thread_senders", "receipts", "missing_events", "pending_redactions", "resolved_states"} {
			if rowsOf(t, address, nid)[table] == 0 {
				t.Errorf("the test has nothing in %s", table)
			}
		}
		now := time.Now()
		for range 2 {
			if done := collect(t, one, now); done.Rooms != 0 {
				t.Fatal("the room went before the other server heard of the leave")
			}
			now = now.Add(2 * time.Hour)
		}
		err := db.Update(context.Background(), func(tx *store.Tx) error { return tx.Outbox.Delete(otherServer, math.MaxInt64) })
		if err != nil {
			t.Fatal(err)
		}
		if done := collect(t, one, now); done.Rooms != 1 {
			t.Errorf("purged %d rooms", done.Rooms)
		}
		if got := rowsOf(t, address, nid); !maps.Equal(got, onlyNumber) {
			t.Errorf("the purge left %v", got)
		}
		if list := timeline(t, db, roomID); len(list) != 0 {
			t.Errorf("%d events are left", len(list))
		}
		reopened := storetest.Open(t, address)
		if len(timeline(t, reopened, kept)) != keptEvents || len(statesOf(t, reopened, kept)) != keptStates {
			t.Error("another room was touched")
		}
		rejoin(t, one, roomID)
		send(t, one, room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.message"})
		statesOf(t, storetest.Open(t, address), roomID)
		if list := timeline(t, db, roomID); len(list) != 2 {
			t.Errorf("after joining again there are %d events", len(list))
		}
	})
}

// fresh is the engine of another process.
func fresh(t *testing.T, e *room.Engine, db *store.DB) *room.Engine {
	t.Helper()
	return &room.Engine{Store: db, Server: e.Server, Key: e.Key, Remote: e.Remote, Log: slog.New(slog.DiscardHandler), DefaultVersion: e.DefaultVersion}
}

// TestPurgeOfAnotherProcess joins a room again through a process that remembers the events which another one deleted.
func TestPurgeOfAnotherProcess(t *testing.T) {
	address := storetest.Postgres(t)
	one, two := pair(t, storetest.Open(t, address))
	other := fresh(t, one, storetest.Open(t, address))
	roomID := joinedThere(t, one, two)
	leaveForGood(t, one, roomID, true)
	now := time.Now()
	collect(t, other, now)
	if done := collect(t, other, now.Add(2*time.Hour)); done.Rooms != 1 {
		t.Fatalf("purged %d rooms", done.Rooms)
	}
	rejoin(t, one, roomID)
	for n, m := range statesOf(t, storetest.Open(t, address), roomID) {
		err := other.Store.View(context.Background(), func(tx *store.Tx) error {
			for _, nid := range m {
				if list, err := tx.Events.ByNID(nid); err != nil || len(list) != 1 {
					t.Errorf("state %d holds event %d, which is not there: %v", n, nid, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestRoomIsWantedAgain joins between the phases, and in the middle of a purge that was interrupted.
func TestRoomIsWantedAgain(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		db := storetest.Open(t, address)
		one, two := pair(t, db)
		roomID := joinedThere(t, one, two)
		nid := leaveForGood(t, one, roomID, true)
		now := time.Now()
		collect(t, one, now)
		rejoin(t, one, roomID)
		now = now.Add(2 * time.Hour)
		if done := collect(t, one, now); done.Rooms != 0 || len(timeline(t, db, roomID)) < 150 {
			t.Error("a room went that somebody came back to")
		}
		leaveForGood(t, one, roomID, true)
		collect(t, one, now)
		now = now.Add(2 * time.Hour)
		err := db.Update(context.Background(), func(tx *store.Tx) error {
			if begun, err := tx.Rooms.BeginPurge(nid, now); err != nil || !begun {
				return errors.Join(err, errors.New("the purge did not begin"))
			}
			_, err := tx.Rooms.PurgeSome(nid, 10)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		err = one.Join(context.Background(), room.Change{Room: roomID, Sender: user("alice"), Target: user("alice"), Via: []id.ServerName{otherServer}})
		if !errors.Is(err, room.ErrBusy) {
			t.Errorf("joining a room that is being purged: %v", err)
		}
		if done := collect(t, fresh(t, one, storetest.Open(t, address)), now); done.Rooms != 1 {
			t.Error("the purge did not go on")
		}
		if got := rowsOf(t, address, nid); !maps.Equal(got, onlyNumber) {
			t.Errorf("the purge left %v", got)
		}
	})
}
