package load

import (
	"errors"
	"sync"
	"sync/atomic"
)

const (
	// Free is what each request may take up besides, in bytes, which is no more than its connection does.
	Free = 64 << 10
	// Value is what a value of JSON takes up when it is decoded, besides its text, in bytes.
	Value = 40
)

// ErrBusy is for a request that there is no room for, or that had to make room for others.
var ErrBusy = errors.New("too much at once")

// Stage counts the memory that the requests in some stage take up. Fill the bounds before its first charge.
type Stage struct {
	Each int64 // bytes of all requests of one who asks, unless it is a single one
	All  int64 // bytes of all requests

	mu   sync.Mutex
	all  int64
	by   map[string]int64
	open map[*Charge]bool // those that can be dropped
}

// Charge is what one request takes up.
type Charge struct {
	stage *Stage
	who   string
	cost  int64
	drop  func() // ends what takes it up; nil if that is not possible
	lost  bool
	done  atomic.Bool
}

// Charge begins to count a request of somebody. drop, if not nil, ends it once others need the room; it is called at most
// once, with the stage locked.
func (s *Stage) Charge(who string, drop func()) *Charge {
	return &Charge{stage: s, who: who, drop: drop}
}

// Held is how many bytes are charged.
func (s *Stage) Held() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}

// Grow charges more to a request, up to a cost, or refuses it with ErrBusy.
func (c *Charge) Grow(cost int64) error {
	s := c.stage
	s.mu.Lock()
	defer s.mu.Unlock()
	more := max(cost-Free, 0) - c.cost
	if c.lost {
		return ErrBusy
	}
	if more <= 0 {
		return nil
	}
	others := s.by[c.who] - c.cost
	if others > 0 && others+c.cost+more > s.Each || !s.makeRoom(c, more) {
		return ErrBusy
	}
	if s.by == nil {
		s.by, s.open = map[string]int64{}, map[*Charge]bool{}
	}
	if c.drop != nil {
		s.open[c] = true
	}
	c.cost += more
	s.all += more
	s.by[c.who] += more
	return nil
}

// Losable has a charge dropped from now on once others need the room, unless it was already; with nil it can no longer be.
func (c *Charge) Losable(drop func()) {
	s := c.stage
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.drop = drop; drop == nil {
		delete(s.open, c)
	} else if c.cost > 0 {
		s.open[c] = true
	}
}

// makeRoom drops what others have too much of until there is room for more, if it comes to that. The caller holds the lock.
func (s *Stage) makeRoom(c *Charge, more int64) bool {
	for s.all+more > s.All {
		var loser *Charge
		for other := range s.open {
			if s.by[other.who] > s.by[c.who]+more && (loser == nil || s.by[other.who] > s.by[loser.who] || other.who == loser.who && other.cost > loser.cost) {
				loser = other
			}
		}
		if loser == nil {
			return false
		}
		loser.lost = true
		s.free(loser)
		loser.drop()
	}
	return true
}

// free gives back what was charged. The caller holds the lock.
func (s *Stage) free(c *Charge) {
	s.all -= c.cost
	if s.by[c.who] -= c.cost; s.by[c.who] <= 0 {
		delete(s.by, c.who)
	}
	c.cost = 0
	delete(s.open, c)
}

// Claim makes the caller the one who ends the charge. It says true once.
func (c *Charge) Claim() bool { return c.done.CompareAndSwap(false, true) }

// Claimed says whether somebody ends the charge.
func (c *Charge) Claimed() bool { return c.done.Load() }

// End gives back what was charged.
func (c *Charge) End() {
	s := c.stage
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.cost > 0 {
		s.free(c)
	}
}

// Over says whether a charge was dropped.
func (c *Charge) Over() bool {
	c.stage.mu.Lock()
	defer c.stage.mu.Unlock()
	return c.lost
}
