package room

import (
	"context"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/store"
)

// A redaction takes effect once it and its target are here and its target is within its reach (reach.go). In room version 3
// and later it is withheld from clients until then ("Handling redactions").

// redaction is the effect of an m.room.redaction.
type redaction struct {
	target   *store.Event // nil if it has not arrived
	redacted *event.Event // nil if the target was redacted before
	reaches
	later bool // the target came with a state, and is within reach once it has its place in the room's past
}

// sendRedaction finds what a redaction by a local user redacts, and whether the user may: one's own events, or all
// with the power to redact. That a whole server may redact what its users sent is for servers to rely on, not users.
func (d *draft) sendRedaction(ctx context.Context, a *addition) error {
	target, err := d.findTarget(ctx, a)
	if err != nil {
		return err
	}
	powerless := d.auth.UserLevel(a.ev.Sender) < d.auth.Levels().Redact()
	switch {
	case target == nil && powerless:
		return fmt.Errorf("%w: %s, which is to be redacted", ErrEventNotFound, a.ev.Redacts)
	case target == nil:
		return nil
	case target.Room != a.ev.Room:
		return fmt.Errorf("%w: the event to redact is of another room", ErrBadRequest)
	case target.StateKeyIs(event.TypeCreate, ""):
		return fmt.Errorf("%w: m.room.create can't be redacted", ErrForbidden)
	case staysWhole(target):
		return fmt.Errorf("%w: %s can't be redacted, only replaced", ErrForbidden, target.Type)
	case target.Sender != a.ev.Sender && powerless:
		return fmt.Errorf("%w: your power level is too low to redact events of other users", ErrForbidden)
	}
	return d.redactState(ctx, a.redacts, a.ev.NID)
}

// handleRedactions carries out an addition to the end of the room if it is a redaction, and those that came before it.
func (d *draft) handleRedactions(ctx context.Context, a *addition) error {
	if _, err := d.findTarget(ctx, a); err != nil {
		return err
	}
	if err := d.redactState(ctx, a.redacts, a.ev.NID); err != nil {
		return err
	}
	return d.redactedBefore(ctx, a)
}

// redactState shows a piece of the current state as redacted, in all that is derived from it.
func (d *draft) redactState(ctx context.Context, r *redaction, by store.EventNID) error {
	if r == nil || r.target == nil || r.redacted == nil || r.target.StateKey == nil {
		return nil
	}
	t := r.target.Tuple()
	state, err := d.e.lookUp(ctx, &d.face, []event.StateKeyTuple{t})
	if err != nil || state[t] == nil || state[t].NID != r.target.NID {
		return err
	}
	redacted := &store.Event{Event: r.redacted, NID: r.target.NID, Room: r.target.Room, Position: r.target.Position, StateBefore: r.target.StateBefore, RedactedBy: by}
	d.ownKnown()
	d.known[t] = redacted
	d.summaryChanged = d.setSummary(t, redacted) || d.summaryChanged
	return d.readRules(ctx)
}

func isRedaction(ev *event.Event) bool {
	return ev.Type == event.TypeRedaction && ev.Redacts != "" && ev.StateKey == nil
}

// findTarget finds the event that an addition redacts, if it is a redaction, and with it what that does; nil if the
// event is not known. State that came with a join has no place in the history here, but is in sight.
func (d *draft) findTarget(ctx context.Context, a *addition) (target *store.Event, err error) {
	if !isRedaction(a.ev.Event) {
		return nil, nil
	}
	err = d.view(ctx, func(tx *store.Tx) (err error) {
		if target, err = tx.Events.Get(a.ev.Redacts); err != nil {
			return err
		}
		if target != nil && target.Outlier() && target.StateKey == nil {
			target = nil
		}
		return d.effect(tx, a, target, target != nil && target.Position < 0)
	})
	if err != nil {
		return nil, fmt.Errorf("find the event to redact: %w", err)
	}
	return target, nil
}

// effect decides what a redaction does to its target, which may not have arrived; backfilled says that this came by backfill.
func (d *draft) effect(tx *store.Tx, a *addition, target *store.Event, backfilled bool) error {
	r := &redaction{target: target}
	var err error
	if r.reaches, err = d.reach(tx, a); err != nil {
		return err
	}
	if a.redacts = r; target != nil {
		past, err := d.ofPast(tx, target, backfilled)
		if err != nil {
			return err
		}
		switch {
		case !redactable(a.ev, target):
			a.redacts = nil
		case r.on(past).Covers(target):
			if target.RedactedBy == 0 {
				if r.redacted, err = target.Redact(); err != nil {
					return fmt.Errorf("redact %s: %w", target.ID, err)
				}
			}
		case target.Outlier() && !backfilled && r.past.Covers(target):
			r.target, r.later = nil, true
		default:
			a.redacts = nil
		}
	}
	a.ev.Withheld = !d.room.Version.RedactionAuth && (a.redacts == nil || a.redacts.target == nil)
	return nil
}

// redactable says whether an event can be the target of a redaction at all.
func redactable(by, target *store.Event) bool {
	return target.Room == by.Room && !target.Rejected && !target.StateKeyIs(event.TypeCreate, "")
}

// waitingFor lists the redactions that came before their target and may redact it, the first one first. past says that
// it is of the room's past.
func waitingFor(tx *store.Tx, v *event.Version, target *store.Event, past bool) ([]*store.Event, error) {
	nids, err := tx.Relations.Awaiting(target, past)
	if err != nil || len(nids) == 0 {
		return nil, err
	}
	waiting, err := tx.Events.ByNID(nids...)
	if err != nil {
		return nil, err
	}
	var out []*store.Event
	for _, by := range waiting {
		reach, err := reachBefore(tx, v, by)
		if err != nil {
			return nil, err
		}
		if reach.Covers(target) && redactable(by, target) {
			out = append(out, by)
		}
	}
	return out, nil
}

// redactedBefore carries out the redactions that arrived before their target, and shows them to clients. In the room's past
// they stand behind it, at its end they come after it.
func (d *draft) redactedBefore(ctx context.Context, a *addition) error {
	var waiting []*store.Event
	err := d.view(ctx, func(tx *store.Tx) (err error) {
		a.awaited = true
		past, err := d.ofPast(tx, a.ev, a.past)
		if err == nil {
			waiting, err = waitingFor(tx, d.room.Version, a.ev, past)
		}
		return err
	})
	if err != nil || len(waiting) == 0 {
		return err
	}
	if target := a.ev; target.RedactedBy == 0 {
		redacted, err := target.Redact()
		if err != nil {
			return fmt.Errorf("redact %s: %w", target.ID, err)
		}
		by := waiting[0].NID
		if err := d.redactState(ctx, &redaction{target: target, redacted: redacted}, by); err != nil {
			return err
		}
		a.ev = &store.Event{Event: redacted, NID: target.NID, Room: target.Room, StateBefore: target.StateBefore, RedactedBy: by, Known: target.Known}
	}
	for _, by := range waiting {
		if !by.Withheld {
			continue
		}
		shown := &addition{ev: &store.Event{Event: by.Event, NID: by.NID, Room: by.Room, StateBefore: by.StateBefore, Known: true}, wake: d.local, past: a.past}
		if by.Position != 0 {
			// The state has changed there. Clients see that the target is redacted.
			shown.uncovers, shown.ev.Position = true, by.Position
			d.additions = append(d.additions, shown)
			continue
		}
		shown.resolved = d.head.State // it stands where it was not the last to be known
		if i := slices.Index(d.additions, a); a.past && i >= 0 {
			d.additions = slices.Insert(d.additions, i, shown)
		} else {
			d.additions = append(d.additions, shown)
		}
	}
	return nil
}

// keepRedacted has an addition keep what a redaction left of the event, if it was known before.
func (a *addition) keepRedacted(known *store.Event) {
	if known != nil && known.RedactedBy != 0 {
		a.ev.Event, a.ev.RedactedBy = known.Event, known.RedactedBy
	}
}

// redact carries out a redaction, or has it wait for its target.
func (a *addition) redact(tx *store.Tx) error {
	r := a.redacts
	if r.target == nil {
		if r.past == store.Nobody && r.current == store.Nobody {
			return nil
		}
		// It may have been fetched meanwhile.
		if known, err := tx.Events.Get(a.ev.Redacts); err != nil || known != nil && (!known.Outlier() || known.StateKey != nil && !r.later) {
			if err == nil {
				err = errStale
			}
			return err
		}
		return tx.Relations.AwaitTarget(a.ev.Room, a.ev.Redacts, r.past, r.current, a.ev.NID)
	}
	if r.redacted == nil {
		return nil
	}
	if err := tx.Events.Redact(r.target, r.redacted, a.ev.NID); err != nil {
		return err
	}
	return tx.Relations.Delete(r.target.NID)
}

// redactOutlier carries out a redaction that arrived before state that another server told. It goes on to wait: it is
// shown once the event has its place in the history.
func redactOutlier(tx *store.Tx, v *event.Version, ev *store.Event) error {
	waiting, err := waitingFor(tx, v, ev, false)
	if err != nil || len(waiting) == 0 {
		return err
	}
	redacted, err := ev.Redact()
	if err != nil {
		return fmt.Errorf("redact %s: %w", ev.ID, err)
	}
	return tx.Events.Redact(ev, redacted, waiting[0].NID)
}
