package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
)

const (
	// patience is how long another server may send nothing, or less than slowest, of an answer that it has begun.
	patience = 20 * time.Second
	// slowest is how many bytes a second it has to send on average beside that.
	slowest = 4 << 10
)

// ErrSlow says that another server sent an answer too slowly.
var ErrSlow = errors.New("the answer comes too slowly")

// paced is the body of an answer that has to keep coming: time that was saved up counts, but no more than patience.
type paced struct {
	io.Reader
	cancel   context.CancelFunc // of the request
	patience time.Duration

	mu     sync.Mutex
	timer  *time.Timer
	until  time.Time
	failed error
}

func (c *Client) paced(body io.Reader, cancel context.CancelFunc) *paced {
	p := &paced{Reader: body, cancel: cancel, patience: patience}
	if c.Patience > 0 {
		p.patience = c.Patience
	}
	p.until = time.Now().Add(p.patience)
	p.timer = time.AfterFunc(p.patience, func() { p.fail(ErrSlow) })
	return p
}

// fail ends the answer.
func (p *paced) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed == nil {
		p.failed = err
	}
	p.cancel()
}

// Read reads on.
func (p *paced) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		return n, p.failed
	}
	most := now.Add(p.patience)
	if p.until = p.until.Add(time.Duration(n) * time.Second / slowest); p.until.After(most) {
		p.until = most
	}
	p.timer.Reset(p.until.Sub(now))
	return n, err
}

func (p *paced) stop() { p.timer.Stop() }

// decoding counts the bytes of large answers that are being read, or held: worked on. If there are too many, the largest
// answer of the server that sent the most is given up, or the work on the largest one of who holds the most.
type decoding struct {
	mu   sync.Mutex
	all  int64
	open map[*answer]int64
}

// add counts more of an answer, and says whether it may go on.
func (d *decoding) add(a *answer, n int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open == nil {
		d.open = map[*answer]int64{}
	}
	d.open[a] += n
	if d.all += n; !d.mayHold(a) {
		return false
	}
	if d.all <= maxDecoding {
		return true
	}
	most := d.heldMost()
	if most != nil && d.of(most) > d.of(a) {
		d.drop(most)
		most.held.Lose()
		return true
	}
	sent := map[id.ServerName]int64{}
	for other, size := range d.open {
		sent[other.server] += size
	}
	loser := a
	for other, size := range d.open {
		if other.held != nil {
			continue
		}
		if most, now := sent[loser.server], sent[other.server]; now > most || now == most && size > d.open[loser] {
			loser = other
		}
	}
	if loser == a || loser.body == nil {
		return false
	}
	d.drop(loser)
	loser.body.fail(ErrBusy)
	return true
}

// heldMost is the largest of the answers that are held, of those for whom most is; nil if there is none. The caller holds the lock.
func (d *decoding) heldMost() (most *answer) {
	for other, size := range d.open {
		if other.held == nil {
			continue
		}
		if most == nil || d.of(other) > d.of(most) || d.of(other) == d.of(most) && size > d.open[most] {
			most = other
		}
	}
	return most
}

// of is how much is read and held for the same as an answer, or if that is nobody the answer's size. The caller holds the lock.
func (d *decoding) of(a *answer) (all int64) {
	if a.who == "" {
		return d.open[a]
	}
	for other, size := range d.open {
		if other.who == a.who {
			all += size
		}
	}
	return all
}

// drop no longer counts an answer. The caller holds the lock.
func (d *decoding) drop(a *answer) {
	d.all -= d.open[a]
	delete(d.open, a)
}

// mayHold says whether who asked for an answer may have it, beside what is held and read for the same. The caller holds the lock.
func (d *decoding) mayHold(a *answer) bool {
	if a.who == "" {
		return true
	}
	others := int64(0)
	for other, size := range d.open {
		if other != a && other.who == a.who {
			others += size
		}
	}
	return others == 0 || others+d.open[a] <= maxHolding
}

// hold has an answer that was read go on counting until it was worked on.
func (d *decoding) hold(a *answer, h *load.Hold) {
	d.mu.Lock()
	a.held = h
	d.mu.Unlock()
	h.Until(func() { d.done(a) })
}

func (d *decoding) done(a *answer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop(a)
}
