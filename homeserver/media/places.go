package media

import (
	"context"
	"slices"
	"sync"

	"github.com/securecomm/securecomm/homeserver/id"
)

// places bound how much of some work is done at a time. Work counts for the user or server who asks for it, and may count for
// the host that it has to do with, so that neither can fill the places. Who has fewer goes before who has more, and among
// equals those who ask take turns.
type places struct {
	most    int  // in all
	each    int  // for one who asks
	host    int  // for one host; 0: hosts do not count
	queue   int  // of one who asks may wait
	losable bool // who has fewer need not wait: who has more than who comes loses the oldest

	mu      sync.Mutex
	held    []*holder // oldest first
	line    []*holder // those who wait; of equals, the first is next
	by      map[string]int
	with    map[id.ServerName]int
	waiting map[string]int
}

// claim is something that a single place is wanted for, whoever gets it.
type claim struct {
	taken chan struct{} // closed once there is a place
	place *holder       // not to be read before
}

// holder has a place, or waits for one.
type holder struct {
	*claim
	who    string        // a user or a server
	host   id.ServerName // or another host
	inside context.Context
	cancel context.CancelCauseFunc // ends inside, by ErrCrowded if the place is lost
}

// enter waits for the claim's place, and says whether it was got by this call. Who got it must leave it. The context inside it
// has the values of ctx, but ends only with the place.
func (p *places) enter(ctx context.Context, c *claim, who string, host id.ServerName) (got bool, err error) {
	h := &holder{claim: c, who: who, host: host}
	h.inside, h.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	if err := p.queueUp(h); err != nil {
		return false, err
	}
	select {
	case <-c.taken:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.place == h {
		return true, nil
	}
	h.cancel(nil)
	p.giveUp(h)
	if c.place != nil {
		return false, nil
	}
	return false, ctx.Err()
}

// queueUp puts somebody into the line, unless too much of theirs is in it.
func (p *places) queueUp(h *holder) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil {
		p.by, p.with, p.waiting = map[string]int{}, map[id.ServerName]int{}, map[string]int{}
	}
	p.line = append(p.line, h)
	p.waiting[h.who]++
	p.serve()
	if h.place == nil && p.waiting[h.who] > p.queue {
		p.giveUp(h)
		return ErrCrowded
	}
	return nil
}

// leave gives a place back.
func (p *places) leave(h *holder) {
	h.cancel(nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(h)
	p.serve()
}

// serve gives places to those who wait as long as somebody can have one. The caller holds the lock, as for all that follow.
func (p *places) serve() {
	for {
		var next, loser *holder
		tried := map[[2]string]bool{}
		for _, h := range p.line {
			key := [2]string{h.who, string(h.host)}
			if h.place != nil || tried[key] {
				continue // somebody has it, or what it waits for was looked at
			}
			tried[key] = true
			if next != nil && p.by[h.who] >= p.by[next.who] {
				continue
			}
			if l, ok := p.fits(h); ok {
				next, loser = h, l
			}
		}
		if next == nil {
			return
		}
		if loser != nil {
			loser.cancel(ErrCrowded)
			p.remove(loser)
		}
		p.giveUp(next)
		p.held = append(p.held, next)
		p.by[next.who]++
		p.with[next.host]++
		next.place = next
		close(next.taken)
		// What else they wait for comes after the others'.
		slices.SortStableFunc(p.line, func(a, b *holder) int { return isOf(a, next.who) - isOf(b, next.who) })
	}
}

func isOf(h *holder, who string) int {
	if h.who == who {
		return 1
	}
	return 0
}

// fits says whether there is a place for somebody, and who would lose it, if anybody. Who comes must not have more afterwards
// than who goes, or they would take turns.
func (p *places) fits(h *holder) (loser *holder, ok bool) {
	if h.place != nil || p.by[h.who] >= p.each {
		return nil, false
	}
	crowdedHost := p.host > 0 && p.with[h.host] >= p.host
	if len(p.held) < p.most && !crowdedHost {
		return nil, true
	}
	if !p.losable {
		return nil, false
	}
	for _, other := range p.held {
		more := p.by[other.who] - p.by[h.who] - 1
		switch {
		case crowdedHost && other.host != h.host:
		case more < 0 || more == 0 && p.with[other.host] <= p.with[h.host]+1:
		case loser == nil, p.by[other.who] > p.by[loser.who], p.by[other.who] == p.by[loser.who] && p.with[other.host] > p.with[loser.host]:
			loser = other
		}
	}
	return loser, loser != nil
}

// giveUp takes somebody out of the line.
func (p *places) giveUp(h *holder) {
	if i := slices.Index(p.line, h); i >= 0 {
		p.line = slices.Delete(p.line, i, i+1)
		less(p.waiting, h.who)
	}
}

// remove takes a place away.
func (p *places) remove(h *holder) {
	if i := slices.Index(p.held, h); i >= 0 {
		p.held = slices.Delete(p.held, i, i+1)
		less(p.by, h.who)
		less(p.with, h.host)
	}
}

func less[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}
