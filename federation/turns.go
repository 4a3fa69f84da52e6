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
	waiting map[string]int
	line    []*waiter // the oldest first
	losable []*turn   // the oldest first
}

// waiter waits for a turn.
type waiter struct {
	who   string
	ready chan struct{} // closed once it has one
	has   bool
}

// turn is one that can be lost.
type turn struct {
	who  string
	lose func()
	lost bool
}

// enter takes a turn, for which it may have to wait; leave ends it.
func (t *turns) enter(ctx context.Context, who string) (leave func(), err error) {
	return t.enterLosable(ctx, who, nil)
}

// enterLosable takes a turn that may be lost, if lose is not nil: once all are taken and somebody with fewer comes, who has
// the most loses its oldest one.
func (t *turns) enterLosable(ctx context.Context, who string, lose func()) (leave func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by, t.waiting = map[string]int{}, map[string]int{}
	}
	if t.by[who] < t.each && (t.all < t.most || t.makeRoom(who)) {
		t.take(who)
	} else if err := t.await(ctx, who); err != nil {
		return nil, err
	}
	own := &turn{who: who, lose: lose}
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

func (t *turns) take(who string) {
	t.all++
	t.by[who]++
}

// await waits until next has taken a turn. The caller holds the lock.
func (t *turns) await(ctx context.Context, who string) error {
	if t.waiting[who] >= t.queue {
		return tooBusy()
	}
	t.waiting[who]++
	w := &waiter{who: who, ready: make(chan struct{})}
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
		t.take(w.who)
		less(t.waiting, w.who)
		w.has = true
		close(w.ready)
		return true
	})
}

// makeRoom ends a turn of who has the most, and more than somebody would. The caller holds the lock.
func (t *turns) makeRoom(who string) bool {
	var loser *turn
	for _, other := range t.losable {
		if t.by[other.who] > t.by[who]+1 && (loser == nil || t.by[other.who] > t.by[loser.who]) {
			loser = other
		}
	}
	if loser == nil {
		return false
	}
	loser.lost = true
	t.free(loser)
	loser.lose()
	return t.all < t.most
}

// free gives a turn back. The caller holds the lock.
func (t *turns) free(own *turn) {
	t.all--
	less(t.by, own.who)
	t.losable = slices.DeleteFunc(t.losable, func(other *turn) bool { return other == own })
}

func less(counts map[string]int, who string) {
	if counts[who]--; counts[who] <= 0 {
		delete(counts, who)
	}
}
