package federation

import (
	"context"
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
}

// enter takes a turn, for which it may have to wait; leave ends it.
func (t *turns) enter(ctx context.Context, who string) (leave func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by, t.waiting, t.freed = map[string]int{}, map[string]int{}, make(chan struct{})
	}
	for t.all >= t.most || t.by[who] >= t.each {
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
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.all--
		less(t.by, who)
		close(t.freed)
		t.freed = make(chan struct{})
	}, nil
}

func less(counts map[string]int, who string) {
	if counts[who]--; counts[who] <= 0 {
		delete(counts, who)
	}
}
