package sender

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

const (
	// maxBytes bounds a transaction, as soon as it holds one thing.
	maxBytes = 4 << 20
	// maxRefusals is how often something is offered that the other server calls a bad request.
	maxRefusals = 5
)

// batch is one transaction. Until it is answered it is sent again as it is, under the same ID.
type batch struct {
	id          string
	transaction client.Transaction
	last        stream.Position // of the outbox rows in it; 0: there are none
	more        bool            // there is more to send
}

func (b *batch) size() int { return len(b.transaction.PDUs) + len(b.transaction.EDUs) }

// deliver sends one transaction, if there is anything to send, and says whether there is more.
func (s *Sender) deliver(server id.ServerName, q *queue, p *place) (more bool, err error) {
	if s.Allows != nil && !s.Allows(server) {
		return false, s.Store.Update(s.ctx, func(tx *store.Tx) error { return tx.Outbox.Delete(server, math.MaxInt64) })
	}
	if q.pending == nil {
		if q.pending, err = s.batch(server, q); err != nil || q.pending == nil {
			return false, err
		}
	}
	b := q.pending
	if b.size() > 0 {
		ctx, end := p.hurry()
		result, err := s.Client.SendTransaction(ctx, server, b.id, b.transaction)
		if errors.Is(context.Cause(ctx), errSlow) && err != nil {
			err = errSlow
		}
		end()
		if err == nil {
			s.Answered(server)
		}
		if err != nil && !s.refused(server, q, err) {
			return false, &failedCall{err}
		}
		for eventID, r := range result.PDUs {
			if r.Error != "" {
				s.Log.Debug("another server refuses an event", "server", server, "event", eventID, "err", r.Error)
			}
		}
	}
	if err := s.delivered(server, q, b); err != nil {
		return false, err
	}
	q.pending, q.refusals = nil, 0
	return b.more, nil
}

// batch builds the next transaction for a destination; nil if there is nothing to send.
func (s *Sender) batch(server id.ServerName, q *queue) (*batch, error) {
	b := &batch{transaction: client.Transaction{OriginServerTS: time.Now().UnixMilli()}}
	limit := client.MaxPDUs + client.MaxEDUs
	if q.single {
		limit = 1
	}
	var first stream.Position
	err := s.Store.View(s.ctx, func(tx *store.Tx) error {
		rows, more, err := tx.Outbox.Next(server, 0, limit, maxBytes)
		if err != nil || len(rows) == 0 {
			return err
		}
		first, b.more = rows[0].Position, more
		return b.fill(tx, rows)
	})
	if err != nil {
		return nil, fmt.Errorf("read what waits for %s: %w", server, err)
	}
	if b.last != 0 {
		// No position comes twice in one epoch, and no epoch in two lives of the database: the other server takes a transaction
		// for a repeated one only if it is.
		b.id = s.Store.Hub.Token(b.last).Epoch + "-" + strconv.FormatInt(int64(first), 10) + "-" + strconv.FormatInt(int64(b.last), 10)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !q.single || b.last == 0 {
		n := min(len(q.ephemeral), client.MaxEDUs-len(b.transaction.EDUs))
		b.transaction.EDUs = append(b.transaction.EDUs, q.ephemeral[:n]...)
		q.ephemeral = q.ephemeral[n:]
	}
	if b.last == 0 {
		if b.size() == 0 {
			return nil, nil
		}
		s.lossy++
		b.id = s.Store.Epoch().ID + "-e" + strconv.FormatInt(s.lossy, 36)
	}
	return b, nil
}

// fill puts rows of the outbox into a transaction, in order, as far as they fit.
func (b *batch) fill(tx *store.Tx, rows []store.OutboxRow) error {
	var nids []store.EventNID
	for _, r := range rows {
		if r.Event != 0 && len(nids) < client.MaxPDUs {
			nids = append(nids, r.Event)
		}
	}
	list, err := tx.Events.ByNID(nids...)
	if err != nil {
		return err
	}
	events := make(map[store.EventNID]*store.Event, len(list))
	for _, e := range list {
		events[e.NID] = e
	}
	t, bytes := &b.transaction, 0
	for _, r := range rows {
		raw, to, limit := json.RawMessage(r.EDU), &t.EDUs, client.MaxEDUs
		if r.Event != 0 {
			to, limit, raw = &t.PDUs, client.MaxPDUs, nil
			if e := events[r.Event]; e != nil {
				raw = e.JSON
			}
		}
		if len(*to) == limit || bytes > 0 && bytes+len(raw) > maxBytes {
			b.more = true
			return nil
		}
		b.last = r.Position
		if json.Valid(raw) { // a row that is broken, or whose event is gone, must not stop the rest
			*to = append(*to, raw)
			bytes += len(raw)
		}
	}
	return nil
}

// delivered removes what was sent from the outbox.
func (s *Sender) delivered(server id.ServerName, q *queue, b *batch) error {
	s.mu.Lock()
	failed := q.failing.FailingSince != 0
	q.failing = store.Destination{}
	s.mu.Unlock()
	if b.last == 0 && !failed {
		return nil
	}
	err := s.Store.Update(s.ctx, func(tx *store.Tx) error {
		if failed {
			if err := tx.Destinations.SetWell(server); err != nil {
				return err
			}
		}
		if b.last == 0 {
			return nil
		}
		return tx.Outbox.Delete(server, b.last)
	})
	if err != nil {
		return fmt.Errorf("take what was delivered to %s out of the outbox: %w", server, err)
	}
	if failed {
		s.Log.Info("a server can be reached again", "server", server)
	}
	return nil
}

// failedCall says that the other server did not take a transaction. All other errors are faults of our own.
type failedCall struct{ error }

func (f *failedCall) Unwrap() error { return f.error }

// refused handles a transaction that the other server will never take, or that can't even be signed: its parts are sent one
// by one, and what is refused again and again alone is given up, so that the rest goes on. It says whether that is so.
func (s *Sender) refused(server id.ServerName, q *queue, err error) bool {
	var answer *client.Error
	bad := errors.As(err, &answer) && (answer.Status == http.StatusBadRequest || answer.Status == http.StatusRequestEntityTooLarge)
	if !bad && !errors.Is(err, canonicaljson.ErrInvalid) {
		return false
	}
	if q.pending.size() > 1 {
		q.single, q.pending = true, nil
		return false
	}
	if q.refusals++; q.refusals < maxRefusals {
		return false
	}
	s.Log.Warn("given up what another server refuses", "server", server, "transaction", q.pending.id, "err", err)
	q.single = false
	return true
}

// stumble tries again a little later after a fault of our own, such as of the database. The destination is none the worse.
func (s *Sender) stumble(server id.ServerName, q *queue, cause error) {
	if q.stumbles == 0 {
		s.Log.Error("cannot deliver to a server for a reason of our own", "server", server, "err", cause)
	}
	pause := min(maxStumblePause, stumblePause<<min(q.stumbles, 20))
	q.stumbles++
	s.mu.Lock()
	defer s.mu.Unlock()
	q.stumbled = time.Now().Add(pause)
	q.running = false
	q.settle()
	s.poke(server, q)
}

// failed leaves a destination alone for a while.
func (s *Sender) failed(server id.ServerName, q *queue, cause error) {
	now := time.Now()
	s.mu.Lock()
	delete(s.answered, server)
	d := &q.failing
	if d.FailingSince == 0 {
		*d = store.Destination{Server: server, FailingSince: now.UnixMilli()}
		s.Log.Info("a server cannot be reached", "server", server, "err", cause)
	}
	d.Failures++
	pause := s.pause(d.Failures)
	var answer *client.Error
	if errors.As(cause, &answer) {
		pause = min(max(pause, answer.RetryAfter), s.MaxPause)
	}
	d.RetryAt = now.Add(pause).UnixMilli()
	q.ephemeral = nil
	if q.pending != nil {
		if q.pending.more = true; q.pending.last == 0 { // more may come while it waits
			q.pending = nil
		}
	}
	state := *d
	s.mu.Unlock()

	lost := state.Failures >= minFailures && now.Sub(time.UnixMilli(state.FailingSince)) > giveUp
	err := s.Store.Update(s.ctx, func(tx *store.Tx) error {
		if lost {
			if err := tx.Outbox.Delete(server, math.MaxInt64); err != nil {
				return err
			}
		}
		return tx.Destinations.SetFailing(state)
	})
	if err != nil && s.ctx.Err() == nil {
		s.Log.Error("cannot remember that a server fails", "server", server, "err", err)
	}
	if lost {
		s.Log.Warn("a server has been gone for too long: what waited for it is dropped", "server", server)
		q.pending = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q.running = false
	q.settle()
	s.poke(server, q)
}

// pause is how long a destination is left alone after so many failures, give or take a fifth so that many
// destinations which failed together are not all tried together.
func (s *Sender) pause(failures int) time.Duration {
	d := s.MaxPause
	if failures < 32 {
		d = min(d, s.MinPause<<(failures-1))
	}
	return d*4/5 + rand.N(d*2/5+1)
}
