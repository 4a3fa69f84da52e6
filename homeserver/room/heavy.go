package room

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/securecomm/securecomm/homeserver/store"
)

const (
	// lightWork is how many steps a resolution may take before it needs a place: some hundredths of a second.
	lightWork = 2000
	// spentHalves is how often what rooms have spent is halved.
	spentHalves = 10 * time.Second
)

// heavy are the places for large resolutions of state. Somebody with power in a room can make many things of it differ
// between forks: that room becomes slow, but it takes at most half of the processors, and of all rooms that wait the one
// goes first that has used the places least of late.
type heavy struct {
	mu      sync.Mutex
	most    int // 0 as long as nobody came
	held    int
	waiting []*heavyTurn
	spent   map[store.RoomNID]time.Duration
	halved  time.Time
}

// heavyTurn is the work on one resolution.
type heavyTurn struct {
	heavy *heavy
	room  store.RoomNID
	steps int
	began time.Time // zero without a place
	ready chan struct{}
}

func (h *heavy) turn(room store.RoomNID) *heavyTurn {
	return &heavyTurn{heavy: h, room: room, ready: make(chan struct{})}
}

// work counts steps, and waits for a place once they are many. rest is called before.
func (t *heavyTurn) work(ctx context.Context, n int, rest func()) error {
	if t.steps += n; t.steps <= lightWork || !t.began.IsZero() {
		return nil
	}
	rest()
	h := t.heavy
	h.mu.Lock()
	if h.most == 0 {
		h.most = max(1, runtime.GOMAXPROCS(0)/2)
		h.spent, h.halved = map[store.RoomNID]time.Duration{}, time.Now()
	}
	h.waiting = append(h.waiting, t)
	h.next()
	h.mu.Unlock()
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = slices.DeleteFunc(h.waiting, func(w *heavyTurn) bool { return w == t })
	return ctx.Err()
}

// next gives places to those who wait. The caller holds the lock.
func (h *heavy) next() {
	for h.held < h.most && len(h.waiting) > 0 {
		first := 0
		for i, t := range h.waiting {
			if h.spent[t.room] < h.spent[h.waiting[first].room] {
				first = i
			}
		}
		t := h.waiting[first]
		h.waiting = slices.Delete(h.waiting, first, first+1)
		h.held++
		t.began = time.Now()
		close(t.ready)
	}
}

// end gives the place back, if there was one.
func (t *heavyTurn) end() {
	h := t.heavy
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.began.IsZero() {
		return
	}
	now := time.Now()
	h.spent[t.room] += now.Sub(t.began)
	for ; now.Sub(h.halved) >= spentHalves && len(h.spent) > 0; h.halved = h.halved.Add(spentHalves) {
		for room, d := range h.spent {
			if h.spent[room] = d / 2; d < time.Millisecond {
				delete(h.spent, room)
			}
		}
	}
	if len(h.spent) == 0 {
		h.halved = now
	}
	h.held--
	h.next()
}
