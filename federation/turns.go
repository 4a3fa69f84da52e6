package federation

import (
	"context"
	"slices"
	"sync"
)

// turns bounds how much of some work is done at a time, in all and for each who asks for it. Who has as many turns as may be
// waits for one of its own to end, and keeps nobody else waiting; but only so many may wait.
type turns struct {
	most, each, queue int

	mu      sync.Mutex
	all     int
	by      map[string]int
	from    map[string]int // those that the same network has
	waiting map[string]int
	line    []*waiter // the oldest first
	losable []*turn   // the oldest first
}

// waiter waits for a turn.
type waiter struct {
	*turn
	ready chan struct{} // closed once it has one
	has   bool
}

// turn is one that somebody has or waits for. It can be lost if lose is not nil.
type turn struct {
	who, network string
	lose         func()
	lost         bool
}

// enter takes a turn, for which it may have to wait; leave ends it.
func (t *turns) enter(ctx context.Context, who string) (leave func(), err error) {
	return t.enterLosable(ctx, who, nil)
}

// enterLosable takes a turn that may be lost, if lose is not nil: once all are taken and somebody with fewer comes, who has
// the most loses its oldest one.
func (t *turns) enterLosable(ctx context.Context, who string, lose func()) (leave func(), err error) {
	return t.enterFrom(ctx, who, who, lose)
}

// enterFrom is enterLosable for somebody of a network: before those who have the most, the network that has the most loses one.
// Names cost nothing, but their turns come from somewhere.
func (t *turns) enterFrom(ctx context.Context, who, network string, lose func()) (leave func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by, t.from, t.waiting = map[string]int{}, map[string]int{}, map[string]int{}
	}
	own := &turn{who: who, network: network, lose: lose}
	if t.by[who] < t.each && (t.all < t.most || t.makeRoom(own)) {
		t.take(own)
	} else if err := t.await(ctx, own); err != nil {
		return nil, err
	}
	if lose != nil {
		t.losable = append(t.losable, own)
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if !own.lost {
			t.free(own)
			t.next()
		}
	}, nil
}

func (t *turns) take(own *turn) {
	t.all++
	t.by[own.who]++
	t.from[own.network]++
}

// await waits until next has taken a turn. The caller holds the lock.
func (t *turns) await(ctx context.Context, own *turn) error {
	who := own.who
	if t.waiting[who] >= t.queue {
		return tooBusy()
	}
	t.waiting[who]++
	w := &waiter{turn: own, ready: make(chan struct{})}
	t.line = append(t.line, w)
	t.mu.Unlock()
	select {
	case <-w.ready:
	case <-ctx.Done():
	}
	t.mu.Lock()
	if w.has {
		return nil
	}
	t.line = slices.DeleteFunc(t.line, func(other *waiter) bool { return other == w })
	less(t.waiting, who)
	return ctx.Err()
}

// next gives turns that are free to those who have waited longest and may have them. The caller holds the lock.
func (t *turns) next() {
	t.line = slices.DeleteFunc(t.line, func(w *waiter) bool {
		if t.all >= t.most || t.by[w.who] >= t.each {
			return false
		}
		t.take(w.turn)
		less(t.waiting, w.who)
		w.has = true
		close(w.ready)
		return true
	})
}

// makeRoom ends a turn of the network, or else of who has the most, and more than somebody would. The caller holds the lock.
func (t *turns) makeRoom(own *turn) bool {
	loser := t.fullest(t.from[own.network]+1, func(other *turn) int { return t.from[other.network] })
	if loser == nil {
		loser = t.fullest(t.by[own.who]+1, func(other *turn) int {
			if t.from[other.network] < t.from[own.network] {
				return 0 // a network takes nothing from one that has less
			}
			return t.by[other.who]
		})
	}
	if loser == nil {
		return false
	}
	loser.lost = true
	t.free(loser)
	loser.lose()
	return t.all < t.most
}

// fullest is the oldest of the turns that can be lost of which there are the most, and more than a number.
func (t *turns) fullest(than int, count func(*turn) int) (loser *turn) {
	for _, other := range t.losable {
		if n := count(other); n > than {
			loser, than = other, n
		}
	}
	return loser
}

// free gives a turn back. The caller holds the lock.
func (t *turns) free(own *turn) {
	t.all--
	less(t.by, own.who)
	less(t.from, own.network)
	t.losable = slices.DeleteFunc(t.losable, func(other *turn) bool { return other == own })
}

func less(counts map[string]int, who string) {
	if counts[who]--; counts[who] <= 0 {
		delete(counts, who)
	}
}
