package room

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/securecomm/securecomm/homeserver/store"
)

// Collection of what nobody needs any longer: states that nothing refers to, and rooms that no user of this server is in
// or remembers. See store.States and store.Rooms for why no writer loses what it builds on.

const (
	// collectAfter is how long something has to have been unused before it goes: longer than any reader goes on with
	// what it found, and than anyone takes to come into a room.
	collectAfter = time.Hour
	// collectLease is how long another process waits for one that may have died while collecting.
	collectLease = 10 * time.Minute
	// collectStep bounds the rows that one update deletes, and so how long others wait for the writer.
	collectStep = 64
	// collectPause is how many times as long as an update took the next one waits, so that others come first.
	collectPause = 4
)

var errLostLease = errors.New("another process collects")

// Collected is what a collection deleted.
type Collected struct{ States, Rooms int }

// Collect marks what is unused at the moment and deletes what was found so an hour ago, in small steps, unless another
// process does so just then. If there is nothing to do it only reads. Call it now and then.
func (e *Engine) Collect(ctx context.Context, now time.Time) (Collected, error) {
	c := collection{e: e, began: time.Now(), now: now, due: now.Add(-collectAfter), holder: rand.Text()}
	work, err := c.any(ctx)
	if err != nil || !work {
		return c.done, err
	}
	for _, phase := range []func(context.Context) error{c.deleteStates, c.markStates, c.purgeRooms, c.markRooms} {
		if err = phase(ctx); err != nil {
			break
		}
	}
	if errors.Is(err, errLostLease) {
		return c.done, nil
	}
	if err == nil {
		err = e.Store.Update(ctx, func(tx *store.Tx) error { return tx.Leases.Release(leaseName, c.holder) })
	}
	if err != nil {
		err = fmt.Errorf("collect what is unused: %w", err)
	}
	return c.done, err
}

const leaseName = "collect"

type collection struct {
	e        *Engine
	began    time.Time // by the clock, at which it was now
	now, due time.Time
	holder   string
	done     Collected
}

// any says whether something is listed to be looked at or deleted.
func (c *collection) any(ctx context.Context) (found bool, err error) {
	err = c.e.Store.View(ctx, func(tx *store.Tx) error {
		for _, marked := range []time.Time{{}, c.due} {
			states, err := tx.States.ListUnused(marked, 1)
			if err != nil {
				return err
			}
			rooms, err := tx.Rooms.ListUnwanted(marked, 1)
			if err != nil {
				return err
			}
			found = found || len(states)+len(rooms) > 0
		}
		return nil
	})
	return found, err
}

// step is one update of the collection. It keeps the lease, and gives way to others afterwards.
func (c *collection) step(ctx context.Context, fn func(*store.Tx) error) error {
	var took time.Duration
	err := c.e.Store.Update(ctx, func(tx *store.Tx) error {
		began := time.Now()
		now := c.now.Add(began.Sub(c.began))
		ours, err := tx.Leases.Take(leaseName, c.holder, now, now.Add(collectLease))
		if err == nil && !ours {
			err = errLostLease
		}
		if err == nil {
			err = fn(tx)
		}
		took = time.Since(began)
		return err
	})
	if err != nil {
		return err
	}
	pause := time.NewTimer(collectPause * took)
	defer pause.Stop()
	select {
	case <-pause.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *collection) listStates(ctx context.Context, marked time.Time) (nids []store.StateNID, err error) {
	err = c.e.Store.View(ctx, func(tx *store.Tx) error {
		nids, err = tx.States.ListUnused(marked, collectStep)
		return err
	})
	return nids, err
}

// deleteStates ends when a step changes nothing, which is so if other processes hold what is left.
func (c *collection) deleteStates(ctx context.Context) error {
	var last store.StateNID
	for {
		nids, err := c.listStates(ctx, c.due)
		if err != nil || len(nids) == 0 || nids[0] == last {
			return err
		}
		last = nids[0]
		var deleted int
		err = c.step(ctx, func(tx *store.Tx) (err error) {
			deleted, err = tx.States.DeleteUnused(nids)
			return err
		})
		if err != nil {
			return err
		}
		c.done.States += deleted
	}
}

func (c *collection) markStates(ctx context.Context) error {
	for {
		nids, err := c.listStates(ctx, time.Time{})
		if err != nil || len(nids) == 0 {
			return err
		}
		if err := c.step(ctx, func(tx *store.Tx) error { return tx.States.MarkUnused(nids, c.now) }); err != nil {
			return err
		}
	}
}

func (c *collection) listRooms(ctx context.Context, marked time.Time, limit int) (rooms []store.UnwantedRoom, err error) {
	err = c.e.Store.View(ctx, func(tx *store.Tx) error {
		rooms, err = tx.Rooms.ListUnwanted(marked, limit)
		return err
	})
	return rooms, err
}

// maxPurges is how many rooms one collection purges at most.
const maxPurges = 1000

func (c *collection) purgeRooms(ctx context.Context) error {
	rooms, err := c.listRooms(ctx, c.due, maxPurges)
	if err != nil {
		return err
	}
	for _, r := range rooms {
		purged, err := c.purge(ctx, r)
		if err != nil {
			return err
		}
		if purged {
			c.done.Rooms++
		}
	}
	return nil
}

// purge deletes all of a room, or goes on where another process was stopped.
func (c *collection) purge(ctx context.Context, r store.UnwantedRoom) (bool, error) {
	if !r.Purging {
		waits := false
		err := c.e.Store.View(ctx, func(tx *store.Tx) (err error) {
			waits, err = tx.Rooms.AwaitsDelivery(r.NID)
			return err
		})
		if err != nil || waits {
			return false, err
		}
		begun := false
		err = c.step(ctx, func(tx *store.Tx) (err error) {
			begun, err = tx.Rooms.BeginPurge(r.NID, c.due)
			return err
		})
		if err != nil || !begun {
			return false, err
		}
	}
	c.e.forgetGraph(r.NID)
	for more := true; more; {
		err := c.step(ctx, func(tx *store.Tx) (err error) {
			more, err = tx.Rooms.PurgeSome(r.NID, collectStep)
			return err
		})
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

func (c *collection) markRooms(ctx context.Context) error {
	for {
		rooms, err := c.listRooms(ctx, time.Time{}, collectStep)
		if err != nil || len(rooms) == 0 {
			return err
		}
		err = c.step(ctx, func(tx *store.Tx) error {
			for _, r := range rooms {
				if err := tx.Rooms.MarkUnwanted(r.NID, c.now); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}
