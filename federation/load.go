package federation

import (
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of the memory that requests take up, in bytes.
const (
	freeLoad   = 64 << 10  // of each request, which is no more than its connection takes up
	senderLoad = 64 << 20  // of one sender, unless it is a single request
	allLoad    = 512 << 20 // of all requests
	// valueLoad is what a value takes up when it is decoded, besides its text.
	valueLoad = 40
)

// load counts the memory that the requests in some stage take up. The zero value is ready.
type load struct {
	mu   sync.Mutex
	all  int64
	by   map[string]int64
	open map[*charge]bool // those that can be dropped
}

// charge is what one request takes up.
type charge struct {
	load *load
	who  string
	cost int64
	drop func() // ends what takes it up; nil if that is not possible
	lost bool
	done atomic.Bool
}

// grow charges more to a request, up to a cost, or refuses it.
func (c *charge) grow(cost int64) error {
	l := c.load
	l.mu.Lock()
	defer l.mu.Unlock()
	more := max(cost-freeLoad, 0) - c.cost
	if c.lost {
		return tooBusy()
	}
	if more <= 0 {
		return nil
	}
	others := l.by[c.who] - c.cost
	if others > 0 && others+c.cost+more > senderLoad || !l.makeRoom(c, more) {
		return tooBusy()
	}
	if l.by == nil {
		l.by, l.open = map[string]int64{}, map[*charge]bool{}
	}
	if c.drop != nil {
		l.open[c] = true
	}
	c.cost += more
	l.all += more
	l.by[c.who] += more
	return nil
}

// losable has a charge dropped from now on once others need the room, unless it was already.
func (c *charge) losable(drop func()) {
	l := c.load
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.drop = drop; c.cost > 0 {
		l.open[c] = true
	}
}

// makeRoom drops what others have too much of until there is room for more, if it comes to that. The caller holds the lock.
func (l *load) makeRoom(c *charge, more int64) bool {
	for l.all+more > allLoad {
		var loser *charge
		for other := range l.open {
			if l.by[other.who] > l.by[c.who]+more && (loser == nil || l.by[other.who] > l.by[loser.who] || other.who == loser.who && other.cost > loser.cost) {
				loser = other
			}
		}
		if loser == nil {
			return false
		}
		loser.lost = true
		l.free(loser)
		loser.drop()
	}
	return true
}

// free gives back what was charged. The caller holds the lock.
func (l *load) free(c *charge) {
	l.all -= c.cost
	if l.by[c.who] -= c.cost; l.by[c.who] <= 0 {
		delete(l.by, c.who)
	}
	c.cost = 0
	delete(l.open, c)
}

// claim makes the caller the one who ends the charge. It says true once.
func (c *charge) claim() bool { return c.done.CompareAndSwap(false, true) }

func (c *charge) claimed() bool { return c.done.Load() }

// end gives back what was charged.
func (c *charge) end() {
	l := c.load
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.cost > 0 {
		l.free(c)
	}
}

func tooBusy() error {
	return &failure{status: http.StatusTooManyRequests, code: "M_LIMIT_EXCEEDED", message: "too much at once", extra: map[string]any{"retry_after_ms": 1000 + rand.Int64N(1000)}}
}

// Bodies have bodyTimeout to arrive in, and within that may not pause for longer than bodyPatience, give or take what they
// have sent at bodySlowest bytes a second.
const (
	bodyTimeout  = time.Minute
	bodyPatience = 20 * time.Second
	bodySlowest  = 4 << 10
)

// charged reads a body and charges it while it comes in.
type charged struct {
	io.Reader
	to       *charge
	deadline func(time.Time) // of the next piece
	end      time.Time       // of all
	until    time.Time       // of the pause that it has left
	read     int64
}

func (r *charged) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.read += int64(n)
	most := time.Now().Add(bodyPatience)
	if r.until = r.until.Add(time.Duration(n) * time.Second / bodySlowest); r.until.After(most) {
		r.until = most
	}
	if !r.to.over() {
		r.deadline(earlier(r.until, r.end))
	}
	if refused := r.to.grow(r.read); refused != nil {
		return n, refused
	}
	return n, err
}

// over says whether a charge was dropped.
func (c *charge) over() bool {
	c.load.mu.Lock()
	defer c.load.mu.Unlock()
	return c.lost
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
