package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// states writes states of one room, as a domain package would.
type states struct {
	t    rapid.TB
	db   *store.DB
	room store.RoomNID
}

func newStates(t rapid.TB, db *store.DB) *states {
	s := &states{t: t, db: db, room: store.RoomNID(number(t, db))}
	v, _ := event.VersionOf(event.DefaultVersion)
	s.update(func(tx *store.Tx) error {
		room := &store.Room{NID: s.room, ID: id.RoomID(fmt.Sprintf("!%d:one.test", s.room)), Version: v}
		return tx.Rooms.Insert(room, store.Head{Seq: 1})
	})
	return s
}

func number(t rapid.TB, db *store.DB) int64 {
	t.Helper()
	n, err := db.NextNumber(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (s *states) update(fn func(*store.Tx) error) {
	s.t.Helper()
	if err := s.try(fn); err != nil {
		s.t.Fatal(err)
	}
}

// try updates, some times over while PostgreSQL finds that processes wait for each other, as those who collect do.
func (s *states) try(fn func(*store.Tx) error) (err error) {
	for range 20 {
		if err = s.db.Update(context.Background(), fn); !errors.Is(err, store.ErrUnavailable) {
			break
		}
	}
	return err
}

func (s *states) get(nid store.StateNID) (out store.Snapshot, err error) {
	err = s.db.View(context.Background(), func(tx *store.Tx) error {
		out, err = tx.States.Get(nid)
		return err
	})
	return out, err
}

// child writes a state that changes its parent.
func (s *states) child(parent store.Snapshot, changes ...store.StateChange) (store.Snapshot, error) {
	s.t.Helper()
	n := parent.Next(store.StateNID(number(s.t, s.db)), changes)
	err := s.try(func(tx *store.Tx) error { return tx.States.Insert(s.room, n, parent.NID, changes) })
	return n, err
}

// line writes a whole state and n more in line, each the child of the one before.
func (s *states) line(n int) []store.Snapshot {
	s.t.Helper()
	var whole []store.StateChange
	for k := range int64(20) {
		whole = append(whole, store.StateChange{Key: k + 1, Event: 1})
	}
	out := make([]store.Snapshot, 1, n+1)
	var err error
	if out[0], err = s.child(store.Snapshot{}, whole...); err != nil {
		s.t.Fatal(err)
	}
	for i := range n {
		c, err := s.child(out[i], store.StateChange{Key: int64(i%20) + 1, Event: store.EventNID(i + 2)})
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

// point has an event point to a state.
func (s *states) point(tx *store.Tx, at store.StateNID, nid int64) error {
	if err := tx.States.Hold(at); err != nil {
		return err
	}
	e := &event.Event{ID: id.EventID(fmt.Sprintf("$%d", nid)), JSON: []byte("{}")}
	return tx.Events.InsertAside(&store.Event{Event: e, NID: store.EventNID(nid), Room: s.room, StateBefore: at})
}

func (s *states) pointed(at store.StateNID) {
	s.t.Helper()
	nid := number(s.t, s.db)
	s.update(func(tx *store.Tx) error { return s.point(tx, at, nid) })
}

func (s *states) setHead(at store.StateNID) {
	s.t.Helper()
	s.update(func(tx *store.Tx) error {
		now, err := tx.Rooms.Head(s.room)
		if err != nil {
			return err
		}
		next := now
		next.Seq, next.State = now.Seq+1, at
		ok, err := tx.Rooms.SwapHead(s.room, now, next)
		if !ok {
			return errors.Join(err, errors.New("the head is another"))
		}
		return err
	})
}

func (s *states) unused(list ...store.Snapshot) {
	s.t.Helper()
	s.update(func(tx *store.Tx) error {
		for _, n := range list {
			if err := tx.States.Unused(n.NID); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *states) listed(marked time.Time) (out []store.StateNID) {
	s.t.Helper()
	err := s.db.View(context.Background(), func(tx *store.Tx) (err error) {
		out, err = tx.States.ListUnused(marked, 1000)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// mark and sweep are the two phases, at the seconds given.
func (s *states) mark(second int64) {
	s.t.Helper()
	if list := s.listed(time.Time{}); len(list) > 0 {
		s.update(func(tx *store.Tx) error { return tx.States.MarkUnused(list, time.Unix(second, 0)) })
	}
}

func (s *states) sweep(second int64) (n int) {
	s.t.Helper()
	if list := s.listed(time.Unix(second, 0)); len(list) > 0 {
		s.update(func(tx *store.Tx) (err error) {
			n, err = tx.States.DeleteUnused(list)
			return err
		})
	}
	return n
}

func (s *states) want(there bool, list ...store.Snapshot) {
	s.t.Helper()
	s.update(func(tx *store.Tx) error {
		for _, n := range list {
			if err := tx.States.Hold(n.NID); (err == nil) != there || err != nil && !errors.Is(err, store.ErrStateGone) {
				s.t.Errorf("state %d: %v, want it there: %v", n.NID, err, there)
			}
		}
		return nil
	})
}

func TestUnusedStatesGo(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStates(t, db)
		line := s.line(6)
		// 0 1 2 3 4 5 6: an event points to 3, the head is 5; 6 is a leaf that nothing refers to.
		s.pointed(line[3].NID)
		s.setHead(line[5].NID)
		s.unused(line...)
		s.mark(100)
		if got := s.listed(time.Unix(100, 0)); !slices.Equal(got, []store.StateNID{line[6].NID}) {
			t.Errorf("marked are %v, want %d", got, line[6].NID)
		}
		if n := s.sweep(99); n != 0 {
			t.Error("a state went before its time")
		}
		s.want(true, line...)
		if n := s.sweep(100); n != 1 {
			t.Errorf("%d states went", n)
		}
		s.want(true, line[:6]...)
		s.want(false, line[6])
		// Its parent is listed anew, and found to be the head.
		s.mark(200)
		s.sweep(200)
		s.want(true, line[:6]...)
		if got := s.listed(time.Time{}); len(got) != 0 {
			t.Errorf("%v are still listed", got)
		}
		// The head moves to a state of its own: 5 and then 4 go, one at a time, but not 3 and what it is made of.
		other := s.line(0)
		s.setHead(other[0].NID)
		s.unused(line[5])
		for second := int64(300); second < 305; second++ {
			s.mark(second)
			s.sweep(second)
		}
		s.want(false, line[4:]...)
		s.want(true, append(line[:4], other[0])...)
		if m, err := s.get(line[3].NID); err != nil || m.Map.Len() != 20 || m.Map.Get(3) != 4 {
			t.Errorf("what is left is %v, %v", m.Map.Len(), err)
		}
	})
}

// TestUnusedStateRevived builds on a marked state between the phases: it stays. After them it fails.
func TestUnusedStateRevived(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStates(t, db)
		a, b, c, d := s.line(0)[0], s.line(0)[0], s.line(0)[0], s.line(0)[0]
		s.unused(a, b, c, d)
		s.mark(100)
		child, err := s.child(a, store.StateChange{Key: 1, Event: 9})
		if err != nil || child.Chain != 1 {
			t.Fatal(child.Chain, err)
		}
		s.pointed(b.NID)
		s.setHead(c.NID)
		if n := s.sweep(100); n != 1 {
			t.Errorf("%d states went", n)
		}
		s.want(true, a, b, c, child)
		s.want(false, d)
		if _, err := s.child(d, store.StateChange{Key: 1, Event: 9}); !errors.Is(err, store.ErrStateGone) {
			t.Errorf("building on what is gone: %v", err)
		}
		nid := number(t, db)
		err = db.Update(context.Background(), func(tx *store.Tx) error { return s.point(tx, d.NID, nid) })
		if !errors.Is(err, store.ErrStateGone) {
			t.Errorf("pointing to what is gone: %v", err)
		}
		if got := s.listed(time.Unix(1000, 0)); len(got) != 0 {
			t.Errorf("%v are still listed", got)
		}
	})
}

// TestCollectAfterRestart stops between the phases, and in the middle of the second.
func TestCollectAfterRestart(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		db, err := store.Open(context.Background(), store.Options{URL: address})
		if err != nil {
			t.Fatal(err)
		}
		s := newStates(t, db)
		line := s.line(2)
		s.unused(line[2])
		s.mark(100)
		boom := errors.New("boom")
		err = db.Update(context.Background(), func(tx *store.Tx) error {
			if _, err := tx.States.DeleteUnused([]store.StateNID{line[2].NID}); err != nil {
				return err
			}
			return boom
		})
		if !errors.Is(err, boom) {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		s.db = storetest.Open(t, address)
		s.want(true, line...)
		for second := int64(100); second < 104; second++ {
			s.sweep(second)
			s.mark(second)
		}
		s.want(false, line...)
	})
}

// TestCollectAtOnce has writers build on states that are being collected, in every way, on several processes: what
// was acknowledged can be read.
func TestCollectAtOnce(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		dbs := []*store.DB{storetest.Open(t, address)}
		if t.Name() == "TestCollectAtOnce/postgres" {
			dbs = append(dbs, storetest.Open(t, address))
		}
		s := newStates(t, dbs[0])
		line := s.line(60)
		const rounds = 60
		var mu sync.Mutex
		kept := map[store.StateNID]bool{}
		var writers, collectors sync.WaitGroup
		stop := make(chan struct{})
		for w := range 4 {
			writers.Go(func() {
				mine := &states{t: t, db: dbs[w%len(dbs)], room: s.room}
				for i := range rounds {
					base := line[(i*7+w*13)%len(line)]
					leaf, err := mine.child(base, store.StateChange{Key: 1, Event: store.EventNID(1000 + i)})
					if err == nil {
						mine.unused(leaf)
						nid := number(t, mine.db)
						if i%3 > 0 {
							err = mine.try(func(tx *store.Tx) error { return mine.point(tx, leaf.NID, nid) })
						} else {
							continue
						}
					}
					if err == nil {
						mu.Lock()
						kept[leaf.NID] = true
						mu.Unlock()
					} else if !errors.Is(err, store.ErrStateGone) {
						t.Error(err)
					}
				}
			})
		}
		for _, db := range dbs {
			collectors.Go(func() {
				mine := &states{t: t, db: db, room: s.room}
				mine.unused(line...)
				for {
					select {
					case <-stop:
						return
					default:
						mine.mark(100)
						mine.sweep(100)
					}
				}
			})
		}
		writers.Wait()
		close(stop)
		collectors.Wait()
		fresh := &states{t: t, db: storetest.Open(t, address), room: s.room}
		for nid := range kept {
			if n, err := fresh.get(nid); err != nil || n.Map.Len() != 20 {
				t.Errorf("state %d was acknowledged and has %d pieces: %v", nid, n.Map.Len(), err)
			}
		}
		if len(kept) == 0 {
			t.Error("nobody came to build anything")
		}
	})
}

// TestStateChains holds states read back from chains of differences against plain maps, while what nothing refers to
// is collected.
func TestStateChains(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		db := storetest.Open(t, address)
		rapid.Check(t, func(rt *rapid.T) {
			s := newStates(rt, db)
			made := []store.Snapshot{{}}
			models := []map[int64]store.EventNID{{}}
			used := map[int]bool{}
			for range rapid.IntRange(1, 40).Draw(rt, "steps") {
				// Mostly the newest, so that chains grow long.
				at := max(0, len(made)-1-rapid.IntRange(0, 3).Draw(rt, "back"))
				var changes []store.StateChange
				model := maps.Clone(models[at])
				for range rapid.IntRange(1, 6).Draw(rt, "changes") {
					c := store.StateChange{Key: rapid.Int64Range(1, 30).Draw(rt, "key"), Event: store.EventNID(rapid.Int64Range(0, 9).Draw(rt, "event"))}
					changes = append(changes, c)
					if model[c.Key] = c.Event; c.Event == 0 {
						delete(model, c.Key)
					}
				}
				n, err := s.child(made[at], changes...)
				if err != nil {
					rt.Fatal(err)
				}
				made, models = append(made, n), append(models, model)
				if rapid.Bool().Draw(rt, "used") {
					used[len(made)-1] = true
					s.pointed(n.NID)
				}
			}
			s.unused(made[1:]...)
			for second := int64(1); len(s.listed(time.Time{}))+len(s.listed(time.Unix(1000, 0))) > 0; second++ {
				s.mark(second)
				s.sweep(second)
			}
			fresh, err := store.Open(context.Background(), store.Options{URL: address, Readers: 1})
			if err != nil {
				rt.Fatal(err)
			}
			defer fresh.Close()
			s.db = fresh
			for i := range used {
				n, err := s.get(made[i].NID)
				if err != nil || n.Chain != made[i].Chain || n.Chain > 64 {
					rt.Fatalf("state %d: chain %d, %v", n.NID, n.Chain, err)
				}
				if got := maps.Collect(n.Map.All); !maps.Equal(got, models[i]) || n.Map.Len() != len(models[i]) {
					rt.Fatalf("state %d is %v, want %v", n.NID, got, models[i])
				}
			}
		})
	})
}

// TestChainsAreBounded follows a line of small differences: a whole state comes at least every 65.
func TestChainsAreBounded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStates(t, db)
		longest, whole := 0, 0
		for _, n := range s.line(200) {
			longest = max(longest, n.Chain)
			if n.Chain == 0 {
				whole++
			}
		}
		if longest != 64 || whole != 4 {
			t.Errorf("the longest chain has %d links, %d states are whole", longest, whole)
		}
	})
}

func TestLease(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		take := func(holder string, second int64, want bool) {
			t.Helper()
			var got bool
			err := db.Update(context.Background(), func(tx *store.Tx) (err error) {
				got, err = tx.Leases.Take("work", holder, time.Unix(second, 0), time.Unix(second+10, 0))
				return err
			})
			if err != nil || got != want {
				t.Errorf("%s at %d: %v, %v", holder, second, got, err)
			}
		}
		take("a", 0, true)
		take("b", 1, false)
		take("a", 9, true)
		take("b", 15, false)
		take("b", 20, true)
		take("a", 21, false)
		if err := db.Update(context.Background(), func(tx *store.Tx) error { return tx.Leases.Release("work", "a") }); err != nil {
			t.Fatal(err)
		}
		take("a", 22, false)
		if err := db.Update(context.Background(), func(tx *store.Tx) error { return tx.Leases.Release("work", "b") }); err != nil {
			t.Fatal(err)
		}
		take("a", 23, true)
		take("b", 14, false)
		take("b", 2, true) // it was taken when the clock was ahead
	})
}
