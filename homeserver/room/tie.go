package room

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/store"
)

// tie is what an event of ours ties together in a room with many ends.
type tie struct {
	ends    []store.Extremity
	before  store.StateMap
	refused error // by the state before it, which is what other servers find, and the ends that it does not name have no say in
}

// choose picks the ends for an event of ours, which needs some of the current state to be allowed: those that stand for the
// different states first, so that the state before the event is the current one if that can be. Where they are too many,
// whoever forks the room from before a user came, or got power, must not take that away: the ends come first that let the
// event be what it is in the current state, and if others stand in its way, these have to wait.
func (d *draft) choose(ctx context.Context, p event.Proto, needed []event.StateKeyTuple, state knownState) error {
	// What it follows has no part in whether it is allowed.
	trial, err := event.Build(d.room.Version, p, d.e.Server, d.e.Key)
	if err != nil {
		return err
	}
	if err := d.auth.Authorize(trial.Event(), state); err != nil {
		return fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	ends := d.differing()
	if len(ends) <= maxPrev {
		return d.pick(ctx, trial, d.fill(ends))
	}
	speak, err := d.sortByAgreement(ctx, ends, needed)
	for others := maxPrev - speak; err == nil; others /= 2 {
		if err = d.pick(ctx, trial, ends[:speak+others]); err == nil && d.tie.refused == nil || others == 0 {
			break
		}
	}
	return err
}

// fill adds ends that have the same states behind them as others, up to as many as an event may name.
func (d *draft) fill(picked []store.Extremity) []store.Extremity {
	for _, list := range [][]store.Extremity{d.further, d.head.Extremities} {
		for _, x := range list {
			if len(picked) == maxPrev {
				return picked
			}
			if !slices.ContainsFunc(picked, func(p store.Extremity) bool { return p.NID == x.NID }) {
				picked = append(picked, x)
			}
		}
	}
	return picked
}

// pick lets an event that the current state allows tie some ends together.
func (d *draft) pick(ctx context.Context, v event.Verified, ends []store.Extremity) error {
	before, err := d.behindAll(ctx, ends)
	if err != nil {
		return err
	}
	d.tie = &tie{ends: ends, before: before}
	if before.Equal(d.state.Map) {
		return nil
	}
	return d.view(ctx, func(tx *store.Tx) error {
		err := authorizeBy(tx, v.Event(), before)
		var refusal *eventauth.Refusal
		if errors.As(err, &refusal) {
			d.tie.refused, err = fmt.Errorf("%w: %w", ErrForbidden, err), nil
		}
		return err
	})
}

// sortByAgreement puts the fewest ends first that have the current value of each piece of state that an event needs. The
// others follow: those that agree in more of these pieces, and then those whose whole state is nearer to the current one. It
// returns how many the first are, at least 1.
func (d *draft) sortByAgreement(ctx context.Context, ends []store.Extremity, needed []event.StateKeyTuple) (int, error) {
	agrees, far := make(map[store.EventNID]uint, len(ends)), make(map[store.EventNID]int, len(ends))
	err := d.view(ctx, func(tx *store.Tx) (err error) {
		keys := make([]int64, len(needed))
		for i, t := range needed {
			if keys[i], err = tx.States.FindKey(t); err != nil {
				return err
			}
		}
		for _, x := range ends {
			m, err := behind(tx, x)
			if err != nil {
				return err
			}
			for i, key := range keys {
				if key == 0 || m.Get(key) == d.state.Map.Get(key) {
					agrees[x.NID] |= 1 << i
				}
			}
			d.state.Map.Diff(m, func(int64, store.EventNID, store.EventNID) { far[x.NID]++ })
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	slices.SortStableFunc(ends, func(a, b store.Extremity) int {
		return cmp.Or(bits.OnesCount(agrees[b.NID])-bits.OnesCount(agrees[a.NID]), far[a.NID]-far[b.NID])
	})
	first := 0
	for open := uint(1)<<len(needed) - 1; first < maxPrev; first++ {
		best, most := 0, 0
		for i, x := range ends[first:] {
			if n := bits.OnesCount(open & agrees[x.NID]); n > most {
				best, most = first+i, n
			}
		}
		if most == 0 {
			break
		}
		x := ends[best]
		open &^= agrees[x.NID]
		copy(ends[first+1:best+1], ends[first:best])
		ends[first] = x
	}
	return max(first, 1), nil
}

// addTie places an event of ours that names some of the ends.
func (d *draft) addTie(ctx context.Context, a *addition) error {
	before := d.tie.before
	d.tie = nil
	if err := d.stateFor(ctx, a, before); err != nil {
		return err
	}
	return d.follow(ctx, a, true)
}
