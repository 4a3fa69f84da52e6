package sender

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// How many transactions are under way at once. What is not known to answer may take all the time there is, so it has places
// of its own, and the more so the less it takes to have something wait for it.
const (
	maxParallel  = 64 // to destinations that have answered
	maxFirsts    = 32 // to destinations that have not answered since the start, but share a room
	maxStrangers = 16 // to those that do not: anybody may send messages to devices of servers that are not there
	maxTrials    = 32 // to destinations that failed the last time
	maxSlow      = 64 // to destinations that have answered, but take their time now
	// maxAnswered is how many destinations are remembered to have answered.
	maxAnswered = 1 << 16
)

type places struct{ answered, firsts, strangers, trials, slow chan struct{} }

func newPlaces() places {
	of := func(most int) chan struct{} { return make(chan struct{}, most) }
	return places{answered: of(maxParallel), firsts: of(maxFirsts), strangers: of(maxStrangers), trials: of(maxTrials), slow: of(maxSlow)}
}

// Answered says that a server has answered a request of ours.
func (s *Sender) Answered(server id.ServerName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.answered[server]; ok {
		return
	}
	if s.answered == nil {
		s.answered = map[id.ServerName]struct{}{}
	}
	for other := range s.answered {
		if len(s.answered) < maxAnswered {
			break
		}
		delete(s.answered, other)
	}
	s.answered[server] = struct{}{}
	if q := s.queues[server]; q != nil {
		q.move()
	}
}

// shares notes that a destination shares a room with somebody here. The caller holds the lock.
func (q *queue) shares() {
	if !q.ofRoom {
		q.ofRoom = true
		q.move()
	}
}

// move has a queue that waits look for its places anew.
func (q *queue) move() {
	select {
	case q.moved <- struct{}{}:
	default:
	}
}

// placesFor are the places that a destination may take one of.
func (s *Sender) placesFor(server id.ServerName, q *queue) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, answered := s.answered[server]
	switch {
	case q.failing.FailingSince != 0:
		return s.places.trials
	case answered:
		return s.places.answered
	case q.ofRoom:
		return s.places.firsts
	}
	return s.places.strangers
}

// place is what a transaction takes up while it is under way.
type place struct {
	s    *Sender
	mu   sync.Mutex
	held chan struct{} // nil: it was given back
}

// enter waits for a place; nil if the sender ends.
func (s *Sender) enter(server id.ServerName, q *queue) *place {
	for {
		places := s.placesFor(server, q)
		select {
		case places <- struct{}{}:
			return &place{s: s, held: places}
		case <-q.moved:
		case <-s.ctx.Done():
			return nil
		}
	}
}

func (p *place) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	<-p.held
	p.held = nil
}

var errSlow = errors.New("it takes its time, as too many others do")

// hurry is the context of a transaction. One that takes long makes room for others: to a destination that has answered, it
// goes on in one of the places for that, and is given up if there is none; to a stranger, if there is none for the next one.
func (p *place) hurry() (ctx context.Context, end func()) {
	if p.held != p.s.places.answered && p.held != p.s.places.strangers {
		return p.s.ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(p.s.ctx)
	timer := time.AfterFunc(p.s.Patience, func() {
		if !p.giveWay() {
			cancel(errSlow)
		}
	})
	return ctx, func() {
		timer.Stop()
		cancel(nil)
	}
}

// giveWay says whether a transaction that takes long may go on.
func (p *place) giveWay() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.held {
	case p.s.places.answered:
		select {
		case p.s.places.slow <- struct{}{}:
			<-p.held
			p.held = p.s.places.slow
			return true
		default:
			return false
		}
	case p.s.places.strangers:
		return len(p.held) < cap(p.held)
	}
	return true // it has ended
}
