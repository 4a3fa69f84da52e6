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
	freed   chan struct{}
	losable []*turn // the oldest first
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
		t.by, t.waiting, t.freed = map[string]int{}, map[string]int{}, make(chan struct{})
	}
	for t.by[who] >= t.each || t.all >= t.most && !t.makeRoom(who) {
		if t.waiting[who] >= t.queue {
			return nil, tooBusy()
		}
		t.waiting[who]++
		freed := t.freed
		t.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
		}
		t.mu.Lock()
		less(t.waiting, who)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	t.all++
	t.by[who]++
	own := &turn{who: who, lose: lose}
	if lose != nil {
		t.losable = append(t.losable, own)
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if !own.lost {
			t.free(own)
		}
	}, nil
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
	close(t.freed)
	t.freed = make(chan struct{})
}

func less(counts map[string]int, who string) {
	if counts[who]--; counts[who] <= 0 {
		delete(counts, who)
	}
}
