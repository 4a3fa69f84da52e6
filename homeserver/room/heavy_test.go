package room

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// apart are a room's state and one in which nobody is a member but its creator.
func (c *crowd) apart() []store.StateMap {
	bare := c.base
	for t, key := range c.keys {
		if strings.HasPrefix(t.StateKey, "@u") {
			bare = bare.Set(key, 0)
		}
	}
	return []store.StateMap{c.base, bare}
}

// TestLargeResolutionsHoldNobodyUp: more large resolutions than the database has readers wait for a place. Others read, and
// small resolutions need no place.
func TestLargeResolutionsHoldNobodyUp(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		large, small := newCrowd(t, db, "11", 1200), newCrowd(t, db, "10", 10)
		e := large.Engine
		begun := e.heavy.turn(large.room.NID)
		for e.heavy.most == 0 || e.heavy.held < e.heavy.most {
			begun = e.heavy.turn(large.room.NID)
			large.must(begun.work(ctx, lightWork+1, func() {}))
		}
		states := large.apart()
		var wg sync.WaitGroup
		outcomes := make([]store.StateMap, 12)
		for i := range outcomes {
			wg.Go(func() {
				err := db.View(ctx, func(tx *store.Tx) (err error) {
					room := *large.room
					room.NID += store.RoomNID(i) << 40 // another room, with a graph of its own
					outcomes[i], err = e.resolve(ctx, tx, &room, states)
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		for waiting := 0; waiting < len(outcomes) && ctx.Err() == nil; runtime.Gosched() {
			e.heavy.mu.Lock()
			waiting = len(e.heavy.waiting)
			e.heavy.mu.Unlock()
		}
		large.must(db.View(ctx, func(tx *store.Tx) error {
			_, err := e.resolve(ctx, tx, small.room, small.fork(0))
			return err
		}))
		begun.end()
		wg.Wait()
		for _, m := range outcomes {
			if m.Len() == 0 || !m.Equal(outcomes[0]) {
				t.Fatal("a resolution came to another end")
			}
		}
	})
}

// TestPlacesGoToOtherRooms: a room that has used the places for large resolutions waits behind one that has not.
func TestPlacesGoToOtherRooms(t *testing.T) {
	h := &heavy{}
	enter := func(room store.RoomNID) *heavyTurn {
		turn := h.turn(room)
		turn.steps = lightWork
		return turn
	}
	first := enter(1)
	if err := first.work(t.Context(), 1, func() {}); err != nil {
		t.Fatal(err)
	}
	h.most = 1
	h.spent[1] = time.Second
	again, other := enter(1), enter(2)
	h.waiting = []*heavyTurn{again, other}
	first.end()
	select {
	case <-other.ready:
	default:
		t.Error("the other room waits")
	}
	other.end()
	<-again.ready
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := enter(3).work(gone, 1, func() {}); err == nil || len(h.waiting) != 0 {
		t.Errorf("who has gone waits: %v", err)
	}
	again.end()
}

// TestLargeEventsAreNotKept: what a resolution keeps of events does not follow their size.
func TestLargeEventsAreNotKept(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for _, version := range []id.RoomVersion{"1", "11", "12"} {
			c := newCrowd(t, db, version, 5)
			long := strings.Repeat("x", 40_000)
			one, two := c.trunk.Fork(), c.trunk.Fork()
			for range 30 {
				one.Must(join(eve, long+"1"))
				two.Must(join(eve, long+"2"))
			}
			states := []store.StateMap{c.state(one), c.state(two)}
			want := c.whole(states)
			c.must(c.Store.View(t.Context(), func(tx *store.Tx) error {
				s := newSource(tx, c.graph(c.room.NID), nil)
				got, err := s.resolve(c.room.Version, states)
				if !got.Equal(want) {
					t.Errorf("version %s: another state", version)
				}
				kept := 0
				for _, ev := range s.events {
					if ev != nil {
						kept += len(ev.JSON) + len(ev.Content)
					}
				}
				if kept > 100_000 || len(s.events) < 50 && version != "1" {
					t.Errorf("version %s: %d bytes of %d events are kept", version, kept, len(s.events))
				}
				return err
			}))
		}
	})
}
