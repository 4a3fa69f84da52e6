package federation

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/securecomm/securecomm/federation/keyring"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
)

// What a fault of ours keeps from being taken in is no verdict: the transaction is answered, and the unit waits in the
// database to be tried again. So do events of a room that a user of this server is just about to come into, until that is over.

const (
	// maxWaiting and maxWaitingBytes bound what waits of one server, maxAllWaiting and maxAllWaitingBytes of all.
	maxWaiting         = 1000
	maxWaitingBytes    = 16 << 20
	maxAllWaiting      = 20000
	maxAllWaitingBytes = 256 << 20
	// maxTries is how often a unit is tried before it is set aside.
	maxTries = 12
	// firstPause is how long a unit waits for its first try. Each time it fails the next wait is twice as long, up to maxDoublings.
	firstPause   = 2 * time.Second
	maxDoublings = 10
	// tryFor bounds the tries of what one server sent of one room, and tryLease how long another process waits for one that may
	// have died: longer than takeAtOnce units take, parallelTries at a time.
	tryFor        = 30 * time.Second
	tryLease      = 3 * time.Minute
	takeAtOnce    = 8
	parallelTries = 4
	// lookForWaiting is how often it is looked for what other processes left.
	lookForWaiting = 10 * time.Second
	// lookAgain is how long what another process holds at the moment is left alone.
	lookAgain = 10 * time.Millisecond
)

// ours says whether an error is no verdict on what was received: a fault of this server, or one that passes. What nobody
// has thought of is one.
func ours(err error) bool {
	if err == nil {
		return false
	}
	for _, passing := range []error{
		store.ErrClosed, store.ErrUnavailable, room.ErrBusy, room.ErrEntering, load.ErrBusy, keyring.ErrUnreachable, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return asFailure(err) == nil
}

// passes says whether an event may be taken in later: what keeps it out is ours, or something about it can't be had just now.
func passes(err error) bool { return ours(err) || needsOthers(err) }

// needsOthers says whether an event lacks what other servers did not tell.
func needsOthers(err error) bool {
	return errors.Is(err, keyring.ErrUnreachable) || errors.Is(err, room.ErrUnreachable)
}

var errFull = fail(http.StatusServiceUnavailable, "M_UNKNOWN", "too much of what your server sent waits for a fault of this server to pass; send it again later")

// errFullest is why what was held is given up.
var errFullest = errors.New("no other server has so much waiting, and there is no more room")

// numbered gives units what Held.Add needs, which has to be had before the update.
func (a *API) numbered(ctx context.Context, units []store.HeldUnit) error {
	for i := range units {
		var err error
		if units[i].NID, err = a.Store.NextNumber(ctx); err != nil {
			return err
		}
	}
	return nil
}

// loss is what a server has lost of what waited.
type loss struct {
	origin id.ServerName
	store.HeldSize
}

// keep has units of a server wait, unless too many of its do. If it is too much of all servers, the one with the most loses
// its oldest; that must be told after the commit. What nobody has more of than the sender is refused instead: it was not
// acknowledged yet.
func (a *API) keep(tx *store.Tx, origin id.ServerName, units []store.HeldUnit) (lost []loss, err error) {
	sizes, err := tx.Held.Sizes()
	if err != nil {
		return nil, err
	}
	own := sizes[origin]
	own.Count += int64(len(units))
	for _, u := range units {
		own.Bytes += int64(len(u.JSON))
	}
	if own.Count > maxWaiting || own.Bytes > maxWaitingBytes {
		return nil, errFull
	}
	sizes[origin] = own
	count, bytes := func(s store.HeldSize) int64 { return s.Count }, func(s store.HeldSize) int64 { return s.Bytes }
	for {
		var all store.HeldSize
		for _, s := range sizes {
			all.Count += s.Count
			all.Bytes += s.Bytes
		}
		over := store.HeldSize{Count: all.Count - maxAllWaiting, Bytes: all.Bytes - maxAllWaitingBytes}
		by := count
		if over.Count <= 0 {
			by = bytes
		}
		if by(over) <= 0 {
			return lost, tx.Held.Add(units, time.Now().Add(a.pause(0)))
		}
		fullest := origin
		for who, s := range sizes {
			if by(s) > by(sizes[fullest]) {
				fullest = who
			}
		}
		if fullest == origin {
			return nil, errFull
		}
		dropped, err := tx.Held.Drop(fullest, over)
		if err != nil {
			return nil, err
		}
		if dropped.Count == 0 {
			delete(sizes, fullest) // taken in meanwhile
			continue
		}
		left := sizes[fullest]
		sizes[fullest] = store.HeldSize{Count: left.Count - dropped.Count, Bytes: left.Bytes - dropped.Bytes}
		lost = append(lost, loss{fullest, dropped})
	}
}

// setAside tells of units that were acknowledged and are given up.
func (a *API) setAside(origin id.ServerName, units store.HeldSize, reason error, more ...any) {
	a.Log.Error("what another server sent is set aside: it can't be taken in", append([]any{"origin", origin, "units", units.Count, "bytes", units.Bytes, "err", reason}, more...)...)
	for range units.Count {
		if a.SetAside != nil {
			a.SetAside()
		}
	}
}

// pause is how long a unit waits that was tried so often.
func (a *API) pause(tries int) time.Duration {
	first := a.FirstPause
	if first == 0 {
		first = firstPause
	}
	return first << min(tries, maxDoublings)
}

// longest is how far away a unit's next try may be.
func (a *API) longest() time.Duration { return max(a.pause(maxDoublings), tryLease) }

// retry tries again what waits, until Close.
func (a *API) retry() {
	for {
		pause := lookForWaiting
		next, waiting, err := a.tryDue()
		switch {
		case errors.Is(err, store.ErrClosed) || a.ctx.Err() != nil:
			return
		case err != nil:
			a.Log.Warn("cannot try again what other servers sent", "err", err)
		case waiting:
			pause = min(pause, max(time.Until(next), lookAgain))
		}
		timer := time.NewTimer(pause)
		select {
		case <-a.ctx.Done():
		case <-a.kept:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// tryDue tries what is due and says when it is worth looking again.
func (a *API) tryDue() (next time.Time, waiting bool, err error) {
	defer guard(&err)
	look := func() error {
		return a.Store.View(a.ctx, func(tx *store.Tx) (err error) {
			next, waiting, err = tx.Held.Next(time.Now(), a.longest())
			return err
		})
	}
	if err := look(); err != nil || !waiting || next.After(time.Now()) {
		return next, waiting, err
	}
	var units []store.HeldUnit
	err = a.Store.Update(a.ctx, func(tx *store.Tx) (err error) {
		now := time.Now()
		units, err = tx.Held.Take(now, now.Add(tryLease), a.longest(), takeAtOnce)
		return err
	})
	if err != nil {
		return next, waiting, err
	}
	var group errgroup.Group
	group.SetLimit(parallelTries)
	for _, line := range lines(units) {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(a.readingFor(line[0].Origin), tryFor)
			defer cancel()
			return a.tryLine(ctx, line)
		})
	}
	if err := group.Wait(); err != nil {
		return next, waiting, err
	}
	return next, waiting, look()
}

// lines sorts units by server and room: an event follows those that came before it.
func lines(units []store.HeldUnit) (out [][]store.HeldUnit) {
	for _, u := range units {
		i := slices.IndexFunc(out, func(line []store.HeldUnit) bool { return line[0].Origin == u.Origin && line[0].Room == u.Room })
		if i < 0 {
			out = append(out, []store.HeldUnit{u})
		} else {
			out[i] = append(out[i], u)
		}
	}
	return out
}

// tryLine takes in what waited of one server and room, in the order in which it came, until a context ends. What there is no
// time left for comes next, without what took it. The error is one of writing down what became of it.
func (a *API) tryLine(ctx context.Context, line []store.HeldUnit) error {
	for i, u := range line {
		r := a.takeIn(ctx, u)
		if a.ctx.Err() != nil {
			return nil // the lease ends, and it is tried once more
		}
		if i > 0 && ctx.Err() != nil && passes(r.Err) {
			left := make([]int64, 0, len(line)-i)
			for _, u := range line[i:] {
				left = append(left, u.NID)
			}
			return a.Store.Update(a.ctx, func(tx *store.Tx) error { return tx.Held.Return(left, time.Now()) })
		}
		if err := a.tried(u, r); err != nil {
			return err
		}
	}
	return nil
}

// tried writes down what becomes of what was tried.
func (a *API) tried(u store.HeldUnit, r room.Received) error {
	if r.ID != "" {
		u.Event = r.ID
	}
	again := a.waits(u, r.Err)
	err := a.Store.Update(a.ctx, func(tx *store.Tx) error {
		if !again {
			return errors.Join(tx.Held.Delete([]int64{u.NID}), tx.Held.Followed(u.Room, u.Event, time.Now()))
		}
		var follows id.EventID
		if w := (*room.WaitsError)(nil); errors.As(r.Err, &w) {
			follows = w.For
		}
		return tx.Held.Delay(u, follows, time.Now().Add(a.pause(u.Tries)))
	})
	if again && errors.Is(r.Err, room.ErrEntering) {
		a.awaitEntry(u.Room)
	}
	return err
}

// waits says whether what failed is to be tried again, and tells of what is not: it was acknowledged.
func (a *API) waits(u store.HeldUnit, err error) bool {
	size := store.HeldSize{Count: 1, Bytes: int64(len(u.JSON))}
	switch {
	case err == nil:
		return false
	case !passes(err):
		a.Log.Info("what another server sent, and waited, is refused", "origin", u.Origin, "room", u.Room, "event", u.Event, "tries", u.Tries, "err", err)
		return false
	case u.Tries >= maxTries, !a.worthWaiting(a.ctx, u.Origin, u.Room, []room.Received{{Err: err}}):
		a.setAside(u.Origin, size, err, "room", u.Room, "event", u.Event, "tries", u.Tries)
		return false
	}
	return true
}

// awaitEntry has what waits of a room be tried once no user of this server is about to come into it any longer, whether one
// is in or not. What is to be tried has to be written before. The caller's own work is one that Close waits for.
func (a *API) awaitEntry(roomID id.RoomID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.entering[roomID] {
		return
	}
	if a.entering == nil {
		a.entering = map[id.RoomID]bool{}
	}
	a.entering[roomID] = true
	a.working.Go(func() {
		select {
		case <-a.Rooms.Entered(roomID):
		case <-a.ctx.Done():
			return // a join does not outlive its server
		}
		a.mu.Lock()
		delete(a.entering, roomID) // who comes from here on waits anew
		a.mu.Unlock()
		if err := a.Store.Update(a.ctx, func(tx *store.Tx) error { return tx.Held.Hasten(roomID, time.Now()) }); err != nil {
			a.Log.Warn("what waited for a user to come into a room is tried later", "room", roomID, "err", err)
		}
		a.wakeRetry()
	})
}

// wakeRetry has retry look at what waits.
func (a *API) wakeRetry() {
	select {
	case a.kept <- struct{}{}:
	default:
	}
}

func (a *API) takeIn(ctx context.Context, u store.HeldUnit) (r room.Received) {
	if u.Room == "" {
		var edu unit
		if json.Unmarshal(u.JSON, &edu) == nil {
			r.Err = a.receiveEDU(ctx, u.Origin, edu.Type, edu.Content)
		}
		return r
	}
	return a.receiveInRoom(ctx, u.Origin, u.Room, []json.RawMessage{u.JSON})[0]
}
