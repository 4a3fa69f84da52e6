package room_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

const server id.ServerName = "one.test"

func engine(t testing.TB, db *store.DB) *room.Engine {
	t.Helper()
	key, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return &room.Engine{Store: db, Server: server, Key: key, Log: slog.New(slog.DiscardHandler), DefaultVersion: event.DefaultVersion}
}

func user(name string) id.UserID { return id.UserID("@" + name + ":" + string(server)) }

func create(t testing.TB, e *room.Engine, c room.Creation) id.RoomID {
	t.Helper()
	c.Creator = user("alice")
	roomID, err := e.Create(context.Background(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return roomID
}

func timeline(t testing.TB, db *store.DB, roomID id.RoomID) []*store.Event {
	t.Helper()
	var out []*store.Event
	err := db.View(context.Background(), func(tx *store.Tx) error {
		r, err := tx.Rooms.ByID(roomID)
		if err != nil {
			return err
		}
		upto, err := tx.Position()
		if err != nil {
			return err
		}
		out, err = tx.Events.Range(r.NID, 0, upto, math.MaxInt32, false)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCreateInAllVersions(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		e := engine(t, db)
		for _, v := range event.Versions() {
			roomID := create(t, e, room.Creation{Version: v, Preset: "public_chat", Name: "A room", Topic: "talk"})
			ctx := context.Background()
			if err := e.Join(ctx, room.Change{Room: roomID, Sender: user("bob"), Target: user("bob")}); err != nil {
				t.Fatalf("version %s: join: %v", v, err)
			}
			sent, err := e.Send(ctx, room.Message{Room: roomID, Sender: user("bob"), Type: "m.room.message", Content: json.RawMessage(`{"body":"hi"}`)})
			if err != nil {
				t.Fatalf("version %s: send: %v", v, err)
			}
			if _, err := e.Redact(ctx, roomID, user("alice"), sent, json.RawMessage(`{}`), nil); err != nil {
				t.Fatalf("version %s: redact: %v", v, err)
			}
			list := timeline(t, db, roomID)
			var types []string
			for _, ev := range list {
				types = append(types, ev.Type)
				if ev.ID == sent && (ev.RedactedBy == 0 || string(ev.Content) != "{}") {
					t.Errorf("version %s: the redacted event is %s", v, ev.Content)
				}
				parsed, err := event.Parse(ev.Version, ev.JSON)
				if err != nil || parsed.ID != ev.ID && v != "1" && v != "2" {
					t.Errorf("version %s: stored %s parses as %v, %v", v, ev.ID, parsed, err)
				}
			}
			want := "[m.room.create m.room.member m.room.power_levels m.room.join_rules m.room.history_visibility m.room.name m.room.topic m.room.member m.room.message m.room.redaction]"
			if got := fmt.Sprint(types); got != want {
				t.Errorf("version %s: the room holds %s", v, got)
			}
			err = db.View(ctx, func(tx *store.Tx) error {
				r, err := tx.Rooms.ByID(roomID)
				if err != nil {
					return err
				}
				s, err := tx.Rooms.Summary(r.NID)
				if s.Name != "A room" || s.Topic != "talk" || s.JoinedMembers != 2 || s.JoinRule != "public" {
					t.Errorf("version %s: the summary is %+v", v, s)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// TestCreateAtOnce makes rooms that begin alike in the same millisecond, whose IDs must differ all the same.
func TestCreateAtOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		e := engine(t, db)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := e.Create(context.Background(), room.Creation{Creator: user("alice")}, nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

func TestMemberships(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		e, ctx := engine(t, db), context.Background()
		roomID := create(t, e, room.Creation{Preset: "private_chat"})
		change := func(sender, target, membership string) error {
			return e.SetMembership(ctx, room.Change{Room: roomID, Sender: user(sender), Target: user(target), Membership: membership})
		}
		for i, step := range []struct {
			sender, target, membership string
			allowed                    bool
		}{
			{"bob", "bob", "join", false},
			{"alice", "bob", "invite", true},
			{"bob", "bob", "join", true},
			{"bob", "bob", "join", true},
			{"bob", "carol", "ban", false},
			{"alice", "bob", "leave", true},
			{"bob", "bob", "join", false},
			{"alice", "bob", "ban", true},
			{"alice", "bob", "invite", false},
			{"alice", "bob", "leave", true},
			{"alice", "bob", "invite", true},
			{"bob", "bob", "leave", true},
		} {
			err := change(step.sender, step.target, step.membership)
			if (err == nil) != step.allowed {
				t.Fatalf("step %d (%v): %v", i, step, err)
			}
			if err != nil && !errors.Is(err, room.ErrForbidden) {
				t.Errorf("step %d: %v is not ErrForbidden", i, err)
			}
		}
		if err := e.SetMembership(ctx, room.Change{Room: "!nosuch:one.test", Sender: user("bob"), Target: user("bob"), Membership: "join"}); !errors.Is(err, room.ErrNotFound) {
			t.Errorf("joining an unknown room: %v", err)
		}
	})
}

// TestConcurrentWriters has many senders in one room: every acknowledged event is there once, in one line.
func TestConcurrentWriters(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		dbs := []*store.DB{storetest.Open(t, address)}
		if t.Name() == "TestConcurrentWriters/postgres" {
			dbs = append(dbs, storetest.Open(t, address))
		}
		engines := []*room.Engine{engine(t, dbs[0])}
		roomID := create(t, engines[0], room.Creation{Preset: "public_chat"})
		for _, db := range dbs[1:] {
			other := engine(t, db)
			other.Key = engines[0].Key
			engines = append(engines, other)
		}
		const writers, each = 8, 25
		var mu sync.Mutex
		sent := map[id.EventID]bool{}
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					m := room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))}
					if i%5 == 0 {
						key := fmt.Sprint(w)
						m.Type, m.StateKey = "test.state", &key
					}
					eventID, err := engines[w%len(engines)].Send(context.Background(), m)
					for errors.Is(err, room.ErrBusy) && len(engines) > 1 { // as a client does
						eventID, err = engines[w%len(engines)].Send(context.Background(), m)
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					sent[eventID] = true
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(sent) != writers*each {
			t.Errorf("%d events were acknowledged, not %d", len(sent), writers*each)
		}
		var last id.EventID
		for _, ev := range timeline(t, dbs[0], roomID) {
			if last != "" && (len(ev.PrevEvents) != 1 || ev.PrevEvents[0] != last) {
				t.Fatalf("%s follows %v, not %s", ev.ID, ev.PrevEvents, last)
			}
			last = ev.ID
			delete(sent, ev.ID)
		}
		if len(sent) > 0 {
			t.Errorf("%d acknowledged events are not there", len(sent))
		}
	})
}

func TestRepeatedRequest(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		e, ctx := engine(t, db), context.Background()
		roomID := create(t, e, room.Creation{})
		m := room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.message", Content: json.RawMessage(`{}`),
			Request: &store.RequestKey{User: user("alice"), Device: "D", Scope: "send " + string(roomID), TxnID: "1"}}
		first, err := e.Send(ctx, m)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := e.Send(ctx, m); err != nil || again != first {
			t.Errorf("repeated: %s, %v, want %s", again, err, first)
		}
		m.Request = &store.RequestKey{User: user("alice"), Device: "E", Scope: "send " + string(roomID), TxnID: "1"}
		if other, err := e.Send(ctx, m); err != nil || other == first {
			t.Errorf("another device's request: %s, %v", other, err)
		}
	})
}

func BenchmarkSend(b *testing.B) {
	db, err := store.Open(context.Background(), store.Options{URL: b.TempDir() + "/b.db"})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	e := engine(b, db)
	for _, rooms := range []int{1, 16} {
		b.Run(fmt.Sprintf("rooms=%d", rooms), func(b *testing.B) {
			var ids []id.RoomID
			for range rooms {
				ids = append(ids, create(b, e, room.Creation{Preset: "public_chat"}))
			}
			var n sync.Mutex
			next := 0
			b.SetParallelism(16)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				n.Lock()
				mine := ids[next%rooms]
				next++
				n.Unlock()
				for pb.Next() {
					_, err := e.Send(context.Background(), room.Message{Room: mine, Sender: user("alice"), Type: "m.room.encrypted",
						Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"AwgAEnACgAkLmt6qF84IK++J7UDH2Za1YVchHyprqTqsg","session_id":"X3lUlvLELLYxeTx4yOVu6UDpasGEVO0Jbu+QFnm0cKQ"}`)})
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
