package sender

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

const (
	// maxEphemeral bounds what may be lost and waits for one destination; the oldest goes first.
	maxEphemeral = client.MaxEDUs
	// minWake is how often a destination's pause can be ended by its speaking to us: it may be able to
	// reach us although we cannot reach it.
	minWake = time.Minute
	// stumblePause is how long to wait at first after a fault of our own, and maxStumblePause at most.
	stumblePause    = 100 * time.Millisecond
	maxStumblePause = time.Minute
	// A destination loses what waits for it when it has failed for giveUp, and at least minFailures times.
	giveUp      = 30 * 24 * time.Hour
	minFailures = 100
)

// Sender delivers to other servers. Fill the fields, then call Start once, and Close in the end.
type Sender struct {
	Store  *store.DB
	Client *client.Client
	Log    *slog.Logger
	// Allows says which servers may be spoken to; nil allows all. What waits for others is dropped.
	Allows func(id.ServerName) bool
	// A destination that fails is left alone for MinPause, then for twice as long each time, up to
	// MaxPause. Zero means a second and an hour.
	MinPause, MaxPause time.Duration
	// Patience is how long a transaction takes up a place that others need (see places.go). Zero means two seconds.
	Patience time.Duration
	// SettleFor is how long Settle waits at most. Zero means five seconds.
	SettleFor time.Duration
	// Bounds are how much may wait of data units. Zero means the usual ones.
	Bounds Bounds

	ctx    context.Context
	cancel context.CancelFunc
	places places
	done   sync.WaitGroup
	queued chan struct{} // told that more waits

	mu       sync.Mutex
	queues   map[id.ServerName]*queue
	answered map[id.ServerName]struct{} // since the start, and those that failed since are not among them
	lossy    int64                      // counts transactions of which nothing is in the outbox
	again    *time.Timer                // calls pokeAll, which has failed
}

// queue is a destination that something waits for, or that fails. Sender.mu guards it, except the last fields.
type queue struct {
	running   bool
	again     bool // something came while it was running
	ofRoom    bool // something of a room that is shared has come for it
	failing   store.Destination
	timer     *time.Timer
	woken     time.Time
	stumbled  time.Time // until when to wait after a fault of our own, which says nothing of the destination
	ephemeral []json.RawMessage
	settled   []chan struct{} // closed when nothing waits any more, or delivery fails
	moved     chan struct{}   // told that it may have other places than those it waits for

	// Used by the running goroutine only.
	pending  *batch // built and not yet answered
	single   bool   // send one thing at a time, to find the one that is refused
	refusals int
	stumbles int // faults of our own in a row
}

// Start begins to deliver. It returns once it knows what waits.
func (s *Sender) Start(ctx context.Context) error {
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.places, s.queues = newPlaces(), map[id.ServerName]*queue{}
	if s.MinPause <= 0 {
		s.MinPause = time.Second
	}
	if s.MaxPause <= 0 {
		s.MaxPause = time.Hour
	}
	if s.Patience <= 0 {
		s.Patience = 2 * time.Second
	}
	if s.SettleFor <= 0 {
		s.SettleFor = 5 * time.Second
	}
	if s.Bounds == (Bounds{}) {
		s.Bounds = usualBounds
	}
	s.queued = make(chan struct{}, 1)
	waiter := s.Store.Hub.Subscribe("")
	from := s.Store.Hub.Current()
	var failing []store.Destination
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		failing, err = tx.Destinations.Failing()
		return err
	})
	if err != nil {
		waiter.Close()
		return fmt.Errorf("start the sender: %w", err)
	}
	for _, d := range failing {
		s.queue(d.Server).failing = d
	}
	s.pokeAll()
	s.mu.Lock()
	for server, q := range s.queues { // also those that nothing waits for, which are forgotten after their pauses
		s.poke(server, q)
	}
	s.mu.Unlock()
	s.done.Add(2)
	go s.follow(waiter, from)
	go s.keepBounds()
	return nil
}

// Close stops delivering and waits for what is under way to end. What was not answered is delivered again
// after the next Start.
func (s *Sender) Close() {
	s.cancel()
	s.mu.Lock()
	if s.again != nil {
		s.again.Stop()
	}
	for _, q := range s.queues {
		if q.timer != nil {
			q.timer.Stop()
		}
	}
	s.mu.Unlock()
	s.done.Wait()
}

// SendEphemeral hands over an ephemeral data unit, JSON with edu_type and content. It is lost for
// destinations that fail.
func (s *Sender) SendEphemeral(servers []id.ServerName, edu json.RawMessage) {
	for _, server := range servers {
		s.mu.Lock()
		q := s.queue(server)
		q.shares()
		if q.failing.FailingSince == 0 {
			if len(q.ephemeral) == maxEphemeral {
				q.ephemeral = q.ephemeral[1:]
			}
			q.ephemeral = append(q.ephemeral, edu)
		}
		s.poke(server, q)
		s.mu.Unlock()
	}
}

// Count is how many servers something waits for or is being sent to, and how many of all failed the last time.
func (s *Sender) Count() (queues, failing int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.queues {
		if q.failing.FailingSince != 0 {
			failing++
		}
	}
	return len(s.queues), failing
}

// Woke says that a server has just spoken to us, so it is worth trying to reach it.
func (s *Sender) Woke(server id.ServerName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[server]
	if q == nil || q.failing.FailingSince == 0 || q.running || time.Since(q.woken) < minWake || s.ctx.Err() != nil {
		return
	}
	q.woken = time.Now()
	q.failing.Failures, q.failing.RetryAt = 0, 0
	if q.timer != nil {
		q.timer.Stop()
	}
	s.poke(server, q)
}

// Settle waits until all that was written for a server is delivered, as long as that works and for SettleFor at
// most. It is for requests that must not overtake the events before them.
func (s *Sender) Settle(ctx context.Context, server id.ServerName) {
	ctx, cancel := context.WithTimeout(ctx, s.SettleFor)
	defer cancel()
	settled := make(chan struct{})
	s.mu.Lock()
	q := s.queue(server)
	if q.failing.FailingSince != 0 {
		s.mu.Unlock()
		return
	}
	q.settled = append(q.settled, settled)
	s.poke(server, q)
	s.mu.Unlock()
	select {
	case <-settled:
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
}

// settle tells those who wait that there is nothing more to wait for. The caller holds the lock.
func (q *queue) settle() {
	for _, c := range q.settled {
		close(c)
	}
	q.settled = nil
}

// follow hears of everything that is written to the outbox.
func (s *Sender) follow(w *stream.Waiter, from stream.Position) {
	defer s.done.Done()
	defer w.Close()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-w.C:
		}
		upto := s.Store.Hub.Current()
		changes, ok := s.Store.Hub.Since(from, upto)
		if !ok {
			s.pokeAll()
		}
		for i := range changes {
			for _, server := range changes[i].Servers {
				s.mu.Lock()
				q := s.queue(server)
				if changes[i].Kind == stream.Event {
					q.shares()
				}
				s.poke(server, q)
				s.mu.Unlock()
			}
		}
		from = upto
		select {
		case s.queued <- struct{}{}:
		default:
		}
	}
}

// pokeAll starts the queues of all destinations that something waits for.
func (s *Sender) pokeAll() {
	var waiting, ofRooms []id.ServerName
	err := s.Store.View(s.ctx, func(tx *store.Tx) (err error) {
		if waiting, err = tx.Outbox.Destinations(); err == nil {
			ofRooms, err = tx.Outbox.EventDestinations()
		}
		return err
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.ctx.Err() == nil {
		s.Log.Error("cannot read which servers something waits for", "err", err)
		s.again = time.AfterFunc(maxStumblePause, s.pokeAll)
	}
	for _, server := range ofRooms {
		s.queue(server).shares()
	}
	for _, server := range waiting {
		s.poke(server, s.queue(server))
	}
}

// queue finds or makes a destination's queue. The caller holds the lock.
func (s *Sender) queue(server id.ServerName) *queue {
	q := s.queues[server]
	if q == nil {
		q = &queue{moved: make(chan struct{}, 1)}
		s.queues[server] = q
	}
	return q
}

// poke has a queue drained, now or when its pause is over. The caller holds the lock.
func (s *Sender) poke(server id.ServerName, q *queue) {
	wait := time.Until(q.stumbled)
	if q.failing.FailingSince != 0 {
		// No pause is longer: what says so was written by a clock that was wrong.
		latest := time.Now().Add(s.MaxPause * 6 / 5).UnixMilli()
		q.failing.RetryAt = min(q.failing.RetryAt, latest)
		wait = max(wait, time.Until(time.UnixMilli(q.failing.RetryAt)))
	}
	switch {
	case s.ctx.Err() != nil:
	case q.running:
		q.again = true
	case wait > 0:
		if q.timer == nil {
			q.timer = time.AfterFunc(wait, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.queues[server] == q {
					s.poke(server, q)
				}
			})
		} else {
			q.timer.Reset(wait)
		}
	default:
		q.running = true
		s.done.Add(1)
		go s.drain(server, q)
	}
}

// drain delivers transactions until nothing is left or one fails.
func (s *Sender) drain(server id.ServerName, q *queue) {
	defer s.done.Done()
	for {
		p := s.enter(server, q)
		if p == nil {
			return
		}
		s.mu.Lock()
		q.again = false
		s.mu.Unlock()
		more, err := s.deliver(server, q, p)
		p.leave()
		if s.ctx.Err() != nil {
			return
		}
		var theirs *failedCall
		switch {
		case errors.As(err, &theirs):
			s.failed(server, q, theirs.error)
			return
		case err != nil:
			s.stumble(server, q, err)
			return
		}
		q.stumbles = 0
		if !more && s.rests(server, q) {
			return
		}
	}
}

// rests ends a queue that nothing waits in. If its destination was failing, that is forgotten: its pause is over, and when
// something comes for it, it is tried like any other.
func (s *Sender) rests(server id.ServerName, q *queue) bool {
	s.mu.Lock()
	failed := q.failing.FailingSince != 0
	s.mu.Unlock()
	if failed {
		if err := s.Store.Update(s.ctx, func(tx *store.Tx) error { return tx.Destinations.SetWell(server) }); err != nil && s.ctx.Err() == nil {
			s.Log.Error("cannot forget that a server failed", "server", server, "err", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q.failing = store.Destination{}
	if q.again || len(q.ephemeral) > 0 {
		return false
	}
	if q.timer != nil {
		q.timer.Stop()
	}
	q.settle()
	q.running = false
	delete(s.queues, server)
	return true
}
