package federation

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/federation/federationtest"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// breakEvents makes a database refuse events that hold a word, until the function returned is called.
func breakEvents(t *testing.T, address, word string) (mend func()) {
	t.Helper()
	driver := "sqlite"
	broken := []string{`CREATE TRIGGER fault BEFORE INSERT ON events WHEN instr(CAST(NEW.json AS TEXT), '` + word + `') > 0 BEGIN SELECT RAISE(ABORT, 'a fault'); END`}
	mended := `DROP TRIGGER fault`
	if strings.HasPrefix(address, "postgres") {
		driver = "pgx"
		broken = []string{
			`CREATE FUNCTION fault() RETURNS trigger AS $$ BEGIN IF position('` + word + `' IN convert_from(NEW.json, 'UTF8')) > 0 THEN RAISE EXCEPTION 'a fault'; END IF; RETURN NEW; END $$ LANGUAGE plpgsql`,
			`CREATE TRIGGER fault BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION fault()`,
		}
		mended = `DROP FUNCTION fault() CASCADE`
	} else {
		address += "?_pragma=busy_timeout(10000)"
	}
	db, err := sql.Open(driver, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	for _, statement := range broken {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if _, err := db.Exec(mended); err != nil {
			t.Fatal(err)
		}
	}
}

// sent makes another server's message and the transaction that brings it.
func (p *peer) sent(to *peer, roomID id.RoomID, texts ...string) (ids []id.EventID, body string) {
	p.Helper()
	var pdus []json.RawMessage
	for _, text := range texts {
		ev := p.forge(to, roomID, event.Proto{Type: "m.room.message", Sender: bob, Content: json.RawMessage(fmt.Sprintf(`{"body":%q}`, text))})
		ids, pdus = append(ids, ev.ID), append(pdus, ev.JSON)
	}
	raw, err := json.Marshal(map[string]any{"origin": p.name, "origin_server_ts": 1, "pdus": pdus})
	if err != nil {
		p.Fatal(err)
	}
	return ids, string(raw)
}

// TestFaultsLoseNothing: the database fails while a transaction is received. It is answered, what it brought is not lost,
// not even by a restart, and one event that never comes in holds up no other.
func TestFaultsLoseNothing(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		n := federationtest.New(t, "us.test", "them.test")
		db := storetest.Open(t, address)
		us, them := newPeer(t, n, "us.test", db), newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db"))
		roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat"})
		if err := them.join(roomID, bob, "us.test"); err != nil {
			t.Fatal(err)
		}
		mend := breakEvents(t, address, "hindered")
		ids, body := them.sent(us, roomID, "hindered", "good")
		status, answer := them.request(us, "PUT", "/_matrix/federation/v1/send/1", body, nil)
		if verdicts, _ := answer["pdus"].(map[string]any); status != 200 || len(verdicts) != 2 || strings.Contains(fmt.Sprint(answer), "error") {
			t.Fatalf("answered with %d %v", status, answer)
		}
		us.await(alice, ids[1])
		if _, again := them.request(us, "PUT", "/_matrix/federation/v1/send/1", body, nil); fmt.Sprint(again) != fmt.Sprint(answer) {
			t.Errorf("the second answer is %v, the first was %v", again, answer)
		}
		us.api.Close()
		mend()
		restarted := newPeer(t, n, "us.test", db)
		restarted.await(alice, ids[0])
	})
}

// sharing are two servers in a room of the first, whose database is at an address.
func sharing(t *testing.T, address string) (us, them *peer, roomID id.RoomID) {
	t.Helper()
	n := federationtest.New(t, "us.test", "them.test")
	us, them = newPeer(t, n, "us.test", storetest.Open(t, address)), newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db"))
	roomID = us.create(room.Creation{Creator: alice, Preset: "public_chat"})
	if err := them.join(roomID, bob, "us.test"); err != nil {
		t.Fatal(err)
	}
	return us, them, roomID
}

// hinder sends an event from them that the database does not take.
func hinder(t *testing.T, address string, us, them *peer, roomID id.RoomID) {
	t.Helper()
	breakEvents(t, address, "hindered")
	_, body := them.sent(us, roomID, "hindered")
	if status, answer := them.request(us, "PUT", "/_matrix/federation/v1/send/1", body, nil); status != 200 {
		t.Fatalf("answered with %d %v", status, answer)
	}
}

// TestFaultsEnd: what can never be taken in is set aside after some tries.
func TestFaultsEnd(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		us, them, roomID := sharing(t, address)
		aside := make(chan struct{}, 1)
		us.api.FirstPause, us.api.SetAside = time.Microsecond, func() { aside <- struct{}{} }
		hinder(t, address, us, them, roomID)
		<-aside
	})
}

// askers notes for whom events are checked.
type askers struct {
	room.Remote
	who chan any
}

func (a *askers) Verify(ctx context.Context, teller id.ServerName, events []*event.Event) []room.VerifyResult {
	a.who <- ctx.Value(store.Asker{})
	return a.Remote.Verify(ctx, teller, events)
}

// TestTransactionsAreReadFor: what is read for a transaction, and for what waits of it, counts as read for its sender.
func TestTransactionsAreReadFor(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		us, them, roomID := sharing(t, address)
		checked := &askers{Remote: us.rooms.Remote, who: make(chan any, 1000)}
		us.rooms.Remote, us.api.FirstPause = checked, time.Microsecond
		hinder(t, address, us, them, roomID)
		for range 2 {
			if who := <-checked.who; who != "them.test" {
				t.Errorf("it was read for %v", who)
			}
		}
	})
}

// TestWaitingIsFair: what waits of one server does not stand behind all that waits of another, and a time that only a wrong
// clock can have written is no reason to wait.
func TestWaitingIsFair(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		a := &API{Server: "us.test", Store: db}
		unit := func(origin id.ServerName, n int) store.HeldUnit {
			return store.HeldUnit{Origin: origin, Room: "!r:us.test", JSON: fmt.Append(nil, n)}
		}
		units := []store.HeldUnit{unit("late.test", 0)}
		for i := range 20 {
			units = append(units, unit("flood.test", i))
		}
		units = append(units, unit("honest.test", 0))
		if err := a.numbered(t.Context(), units); err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			if err := errors.Join(tx.Held.Add(units[1:21], now), tx.Held.Add(units[21:], now.Add(time.Second)), tx.Held.Add(units[:1], now.AddDate(1, 0, 0))); err != nil {
				return err
			}
			if next, waiting, err := tx.Held.Next(now, time.Hour); err != nil || !waiting || next.After(now) {
				t.Errorf("next is %v, %v, %v", next, waiting, err)
			}
			taken, err := tx.Held.Take(now.Add(time.Minute), now.Add(2*time.Minute), time.Hour, 3)
			from := map[id.ServerName]int{}
			for _, u := range taken {
				from[u.Origin]++
			}
			if want := map[id.ServerName]int{"late.test": 1, "flood.test": 1, "honest.test": 1}; !maps.Equal(from, want) {
				t.Errorf("taken are %v", from)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// TestWaitingIsBounded: what waits of one server has a limit, and takes nothing from others.
func TestWaitingIsBounded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		a := &API{Server: "us.test", Store: db}
		units := func(origin id.ServerName, n, size int) (out []store.HeldUnit) {
			for i := range n {
				out = append(out, store.HeldUnit{Origin: origin, Room: "!r:us.test", JSON: fmt.Appendf(nil, "%s%04d", strings.Repeat("x", size-4), i)})
			}
			if err := a.numbered(t.Context(), out); err != nil {
				t.Fatal(err)
			}
			return out
		}
		for _, c := range []struct {
			origin  id.ServerName
			n, size int
			want    error
		}{
			{"them.test", maxWaiting, 10, nil}, {"them.test", 1, 10, errFull}, {"else.test", 1, 10, nil},
			{"else.test", 1, maxWaitingBytes - 10, nil}, {"else.test", 1, 20, errFull},
		} {
			list := units(c.origin, c.n, c.size)
			err := db.Update(t.Context(), func(tx *store.Tx) error { _, err := a.keep(tx, c.origin, list); return err })
			if !errors.Is(err, c.want) {
				t.Errorf("%d units of %d bytes of %s: %v", c.n, c.size, c.origin, err)
			}
		}
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			now := time.Now().Add(time.Hour)
			first, err := tx.Held.Take(now, now.Add(time.Minute), time.Hour, 3)
			second, again := tx.Held.Take(now, now.Add(time.Minute), time.Hour, 3)
			if len(first) != 3 || len(second) != 3 || first[0].NID == second[0].NID || first[0].Tries != 1 {
				t.Errorf("taken were %+v and %+v", first, second)
			}
			return errors.Join(err, again)
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestTheFullestWaitsLast: what waits of all servers has a limit, at which the server with the most loses its oldest.
func TestTheFullestWaitsLast(t *testing.T) {
	for name, c := range map[string]struct{ floods, units, size int }{
		"units": {maxAllWaiting / maxWaiting, maxWaiting, 8}, "bytes": {maxAllWaitingBytes / maxWaitingBytes, 32, maxWaitingBytes / 32},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, db *store.DB) {
				a := &API{Server: "us.test", Store: db, Log: slog.New(slog.DiscardHandler)}
				add := func(origin id.ServerName, from, n int) (lost []loss, err error) {
					t.Helper()
					var units []store.HeldUnit
					for i := range n {
						units = append(units, store.HeldUnit{Origin: origin, Room: "!r:us.test", JSON: fmt.Appendf(nil, "%s%08d", strings.Repeat("x", c.size-8), from+i)})
					}
					if err := a.numbered(t.Context(), units); err != nil {
						t.Fatal(err)
					}
					err = db.Update(t.Context(), func(tx *store.Tx) (err error) { lost, err = a.keep(tx, origin, units); return err })
					return lost, err
				}
				flood := func(i int) id.ServerName { return id.ServerName(fmt.Sprintf("flood%d.test", i)) }
				for i := range c.floods {
					n := c.units
					if i > 0 {
						n-- // the first is the fullest
					}
					if lost, err := add(flood(i), 0, n); err != nil || len(lost) > 0 {
						t.Fatal(lost, err)
					}
				}
				if _, err := add("honest.test", 0, c.floods-1); err != nil { // now all is full
					t.Fatal(err)
				}
				lost, err := add("honest.test", c.floods, 1)
				if err != nil || len(lost) != 1 || lost[0] != (loss{flood(0), store.HeldSize{Count: 1, Bytes: int64(c.size)}}) {
					t.Fatalf("lost is %v, %v", lost, err)
				}
				if lost, err := add(flood(1), c.units, 1); !errors.Is(err, errFull) || lost != nil {
					t.Errorf("who is the fullest with what it sends: %v, %v", lost, err)
				}
				err = db.View(t.Context(), func(tx *store.Tx) error {
					sizes, err := tx.Held.Sizes()
					if sizes[flood(0)].Count != int64(c.units-1) || sizes[flood(1)].Count != int64(c.units-1) || sizes["honest.test"].Count != int64(c.floods) {
						t.Errorf("in the end %v wait", sizes)
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				told := 0
				a.SetAside = func() { told++ }
				if a.setAside(lost[0].origin, lost[0].HeldSize, errFullest); told != 1 {
					t.Errorf("%d units were counted", told)
				}
			})
		})
	}
}

// TestStrangersKeysAreNotWaitedFor: events that are signed with keys that can't be had wait if their sender is in the room.
func TestStrangersKeysAreNotWaitedFor(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n := federationtest.New(t, "us.test", "them.test", "out.test", "away.test")
		us := newPeer(t, n, "us.test", db)
		them, out := newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db")), newPeer(t, n, "out.test", storetest.Open(t, t.TempDir()+"/out.db"))
		roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat"})
		if err := them.join(roomID, bob, "us.test"); err != nil {
			t.Fatal(err)
		}
		away := *them
		away.name = "away.test"
		var err error
		if away.key, err = sign.NewKey(); err != nil {
			t.Fatal(err)
		}
		ev := away.forge(us, roomID, event.Proto{Type: "m.room.message", Sender: "@eve:away.test", Content: json.RawMessage(`{"body":"hello"}`)})
		body := fmt.Sprintf(`{"pdus":[%s]}`, ev.JSON)
		for _, c := range []struct {
			by   *peer
			want bool
		}{{out, false}, {them, true}} {
			status, answer := c.by.request(us, "PUT", "/_matrix/federation/v1/send/1", body, nil)
			var waits bool
			err := db.View(t.Context(), func(tx *store.Tx) error {
				sizes, err := tx.Held.Sizes()
				waits = sizes[c.by.name].Count > 0
				return err
			})
			if refused := strings.Contains(fmt.Sprint(answer), "error"); err != nil || status != 200 || waits != c.want || refused == c.want {
				t.Errorf("of %s: waits %v, answered with %d %v, %v", c.by.name, waits, status, answer, err)
			}
		}
	})
}
