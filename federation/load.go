package federation

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
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
	mu  sync.Mutex
	all int64
	by  map[string]int64
}

// charge is what one request takes up.
type charge struct {
	load *load
	who  string
	cost int64
	done atomic.Bool
}

// grow charges more to a request, up to a cost, or refuses it.
func (c *charge) grow(cost int64) error {
	l := c.load
	l.mu.Lock()
	defer l.mu.Unlock()
	more := max(cost-freeLoad, 0) - c.cost
	if more <= 0 {
		return nil
	}
	others := l.by[c.who] - c.cost
	if l.all+more > allLoad || others > 0 && others+c.cost+more > senderLoad {
		return tooBusy()
	}
	if l.by == nil {
		l.by = map[string]int64{}
	}
	c.cost += more
	l.all += more
	l.by[c.who] += more
	return nil
}

// claim makes the caller the one who ends the charge. It says true once.
func (c *charge) claim() bool { return c.done.CompareAndSwap(false, true) }

// end gives back what was charged.
func (c *charge) end() {
	l := c.load
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.cost == 0 {
		return
	}
	l.all -= c.cost
	if l.by[c.who] -= c.cost; l.by[c.who] <= 0 {
		delete(l.by, c.who)
	}
	c.cost = 0
}

func tooBusy() error {
	return &failure{status: http.StatusTooManyRequests, code: "M_LIMIT_EXCEEDED", message: "too much at once", extra: map[string]any{"retry_after_ms": int64(1000)}}
}

// charged reads a body and charges it while it comes in.
type charged struct {
	io.Reader
	to   *charge
	read int64
}

func (r *charged) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.read += int64(n)
	if refused := r.to.grow(r.read); refused != nil {
		return n, refused
	}
	return n, err
}
