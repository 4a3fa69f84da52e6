package room_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

// gate is a Remote whose answers with history are counted, and given when and as a test likes.
type gate struct {
	*link
	asked int
	fault error
	began chan struct{} // unless nil, told of each request, which waits then
	open  chan struct{}
}

func (g *gate) Backfill(ctx context.Context, server id.ServerName, roomID id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error) {
	if g.asked++; g.fault != nil {
		return nil, g.fault
	}
	if g.began != nil {
		select {
		case g.began <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		select {
		case <-g.open:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return g.link.Backfill(ctx, server, roomID, from, limit)
}

func gated(t *testing.T, db *store.DB) (one, two *room.Engine, remote *gate) {
	t.Helper()
	one, two = pair(t, db)
	remote = &gate{link: one.Remote.(*link)}
	one.Remote = remote
	return one, two, remote
}

// invent has an event of a room follow events that never were, some for each of several origins.
func invent(t *testing.T, db *store.DB, child *store.Event, origins, each int) {
	t.Helper()
	err := db.Update(context.Background(), func(tx *store.Tx) error {
		for o := range origins {
			for i := range each {
				m := store.Missing{ID: id.EventID(fmt.Sprintf("$-%d-%d-%d", child.NID, o, i)), Child: child.NID, Origin: fmt.Sprintf("evil%d.example", o)}
				if err := tx.Relations.AddMissing(child.Room, m); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestGapsThatNobodyFills: predecessors that never were do not stand before the past that can be had, wherever they are named
// and however many they are, and in the end they are asked for seldom.
func TestGapsThatNobodyFills(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		one, two, remote := gated(t, db)
		roomID, past := longRoom(t, one, two, false)
		newest := timeline(t, db, roomID)
		invent(t, db, newest[len(newest)-1], 1, 20)
		for came, calls := 0, 0; came < len(past); calls++ {
			n, err := one.Backfill(ctx, roomID, 60)
			if err == nil && n == 0 || calls > 30 {
				t.Fatalf("after %d fetches %d of %d events are here, and there is said to be no more: %v", calls, came, len(past), err)
			}
			if came += n; calls == 0 {
				oldest := slices.MinFunc(past, func(a, b *store.Event) int {
					return int(place(t, db, a)) - int(place(t, db, b))
				})
				invent(t, db, known(t, db, oldest.ID), 12, 2)
			}
		}
		var err error
		for range 200 {
			var n int
			if n, err = one.Backfill(ctx, roomID, 60); n > 0 {
				t.Fatal("something came that never was")
			}
			if err == nil {
				break
			}
		}
		if err != nil {
			t.Fatalf("what never was is asked for without end: %v", err)
		}
		before := remote.asked
		if n, err := one.Backfill(ctx, roomID, 60); n != 0 || err != nil || remote.asked != before {
			t.Errorf("what was tried in vain is asked for again at once: %d, %v", n, err)
		}
		err = db.View(ctx, func(tx *store.Tx) error {
			later, err := tx.Relations.Missing(newest[0].Room, 10, time.Now().Add(time.Hour))
			if len(later) == 0 {
				t.Error("what was tried in vain is never asked for again")
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// place is where an event stands in the room's history; where nothing stands if it is not here.
func place(t *testing.T, db *store.DB, ev *store.Event) (at int64) {
	t.Helper()
	err := db.View(context.Background(), func(tx *store.Tx) error {
		here, err := tx.Events.Get(ev.ID)
		if at = 1 << 40; here != nil && here.Position != 0 {
			at = int64(here.Position)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestOutagesEndNoHistory: while nobody is reached there is not said to be no more, however often that is tried.
func TestOutagesEndNoHistory(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two, remote := gated(t, db)
		roomID, _ := longRoom(t, one, two, false)
		remote.fault = room.ErrUnreachable
		for range 20 {
			if n, err := one.Backfill(context.Background(), roomID, 60); err == nil {
				t.Fatalf("%d events, and no more, while nobody is reached", n)
			}
		}
		remote.fault = nil
		if n, err := one.Backfill(context.Background(), roomID, 60); n == 0 {
			t.Errorf("nothing comes after an outage: %v", err)
		}
	})
}

// TestReadersShareAFetch: who scrolls back while older history is being fetched waits for the same answer, also if the reader who
// began it goes away. When all have gone, it ends.
func TestReadersShareAFetch(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two, remote := gated(t, db)
		roomID, _ := longRoom(t, one, two, false)
		remote.began, remote.open = make(chan struct{}), make(chan struct{})
		type result struct {
			n   int
			err error
		}
		read := func(ctx context.Context) <-chan result {
			out := make(chan result, 1)
			go func() {
				n, err := one.Backfill(ctx, roomID, 60)
				out <- result{n, err}
			}()
			return out
		}
		begin := func() (<-chan result, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			out := read(ctx)
			waittest.Get(t, "a request for older history", remote.began)
			return out, cancel
		}
		alone, cancel := begin()
		cancel()
		if r := waittest.Get(t, "the end of a reader who has gone", alone); !errors.Is(r.err, context.Canceled) {
			t.Errorf("a reader who has gone: %v", r.err)
		}
		first, cancel := begin()
		second := read(t.Context())
		waittest.Until(t, "two readers wait for one fetch", func() bool { return room.OlderReaders(one, roomID) == 2 })
		cancel()
		if r := waittest.Get(t, "the end of the reader who began", first); !errors.Is(r.err, context.Canceled) {
			t.Errorf("the reader who began and has gone: %v", r.err)
		}
		close(remote.open)
		if r := waittest.Get(t, "history for the other reader", second); r.n == 0 || r.err != nil || remote.asked != 2 {
			t.Errorf("the other reader: %d events, %v; the server was asked %d times", r.n, r.err, remote.asked)
		}
	})
}

// TestPeers: those through whom users came and those who are trusted by the room are asked first, of equals those with more
// users; many names of one owner count as one, and those that failed are asked last.
func TestPeers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two, remote := gated(t, db)
		roomID, _ := longRoom(t, one, two, false)
		empty, bob := "", "@bob:"+string(otherServer)
		levels := json.RawMessage(`{"users":{"@a:wise.example":50}}`) // beside the creator
		deliver(t, two, one, send(t, two, room.Message{Room: roomID, Sender: id.UserID(bob), Type: event.TypePowerLevels, StateKey: &empty, Content: levels}))
		for i, member := range []id.UserID{"@a:wise.example", "@b:wise.example", "@a:b.evil.example", "@a:a.evil.example", "@b:a.evil.example", "@a:c.evil.example"} {
			by := engine(t, storetest.Open(t, filepath.Join(t.TempDir(), fmt.Sprint(i))))
			by.Server = member.Server()
			if _, ok := remote.keys[by.Server]; ok {
				by.Key = remote.keys[by.Server]
			}
			remote.keys[by.Server] = by.Key
			key := string(member)
			join := forge(t, one, by, roomID, event.Proto{Type: event.TypeMember, Sender: member, StateKey: &key, Content: json.RawMessage(`{"membership":"join"}`)})
			deliver(t, by, one, &store.Event{Event: join.Event})
		}
		expect := func(when string, e *room.Engine, want ...id.ServerName) {
			t.Helper()
			got, err := e.Peers(context.Background(), roomID)
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %v, not %v (%v)", when, got, want, err)
			}
		}
		expect("at first", one, otherServer, "wise.example", "c.evil.example", "a.evil.example", "b.evil.example")
		again := engine(t, db)
		expect("after a restart, when it is not known through whom users came", again, "wise.example", otherServer, "c.evil.example", "a.evil.example", "b.evil.example")
		remote.fault = room.ErrUnreachable
		if _, err := one.Backfill(context.Background(), roomID, 60); err == nil {
			t.Error("unreachable servers answer")
		}
		again.Remote = &trusted{gate: remote}
		if n, err := again.Backfill(context.Background(), roomID, 60); n == 0 {
			t.Errorf("an order of servers in which one answers: %v", err)
		}
		expect("when the first has failed", again, otherServer, "c.evil.example", "a.evil.example", "b.evil.example", "wise.example")
	})
}

// trusted is a Remote of which the server that all would ask first fails, and all others answer.
type trusted struct{ *gate }

func (r *trusted) Backfill(ctx context.Context, server id.ServerName, roomID id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error) {
	if server == "wise.example" {
		return nil, room.ErrUnreachable
	}
	return r.link.Backfill(ctx, server, roomID, from, limit)
}

// noting is a Remote that has nothing, and notes behind which events it is asked.
type noting struct {
	*link
	earliest []id.EventID
}

func (n *noting) MissingEvents(_ context.Context, _ id.ServerName, _ id.RoomID, earliest, _ []id.EventID, _ int) ([]json.RawMessage, error) {
	n.earliest = earliest
	return nil, nil
}

// TestGapsEndAtAllThatIsHere: what is missing is asked for behind the newest of all ends of a room, so that little comes that
// is here.
func TestGapsEndAtAllThatIsHere(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		f := fork(t, one, two, "11")
		remote := &noting{link: one.Remote.(*link)}
		one.Remote = remote
		old := f.last()
		var ends []id.EventID
		for range 130 {
			ev := f.message(old, "@bob:two.test", "x")
			f.deliver(ev)
			if ends = append(ends, ev.ID); len(ends)%65 != 0 {
				continue
			}
			next := f.forge(old, event.Proto{
				Type: "m.room.message", Sender: "@bob:two.test", Content: json.RawMessage(`{"body":"x"}`),
				PrevEvents: []id.EventID{f.message(old, "@bob:two.test", "not sent").ID},
			})
			if r := one.Receive(context.Background(), two.Server, f.room, []json.RawMessage{next.JSON}); !errors.Is(r[0].Err, room.ErrEventNotFound) {
				t.Fatal(r[0].Err)
			}
			if len(remote.earliest) > 100 {
				t.Errorf("%d ends are told", len(remote.earliest))
			}
			for _, end := range ends[max(0, len(ends)-90):] {
				if !slices.Contains(remote.earliest, end) {
					t.Fatalf("of %d ends, one of the newest is not among the %d told", len(ends), len(remote.earliest))
				}
			}
		}
	})
}
