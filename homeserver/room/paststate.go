package room

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// findStates works out the states before and behind the events, from the oldest to the newest. Those of which it can't
// be known are left out.
func (p *past) findStates(ctx context.Context, tx *store.Tx) error {
	p.before, p.soft = map[id.EventID]store.StateMap{}, map[id.EventID]bool{}
	if p.behind == nil {
		p.behind = map[id.EventID]store.StateMap{}
	}
	for _, v := range slices.Backward(p.events) {
		ev := v.Event()
		before, found, err := p.stateBefore(ctx, tx, ev)
		if err != nil {
			return fmt.Errorf("find the state before %s: %w", ev.ID, err)
		}
		if !found {
			continue
		}
		p.before[ev.ID] = before
		if err := p.judge(tx, ev, before); err != nil {
			return err
		}
		p.behind[ev.ID] = before
		if ev.StateKey != nil && !p.aside(ev) {
			p.behind[ev.ID] = before.Set(p.keys[ev.Tuple()], p.known[ev.ID].NID)
		}
	}
	return nil
}

func (p *past) stateBefore(ctx context.Context, tx *store.Tx, ev *event.Event) (store.StateMap, bool, error) {
	if ev.Type == event.TypeCreate {
		return store.StateMap{}, true, nil
	}
	if told, ok := p.told[ev.ID]; ok {
		return told, true, nil
	}
	var states []store.StateMap
	for _, i := range ev.PrevEvents {
		m, ok := p.behind[i]
		if placed := p.placed[i]; !ok && placed != nil {
			var err error
			if m, err = tx.States.Behind(placed); err != nil {
				return m, false, err
			}
			ok = true
		}
		if !ok {
			return m, false, nil
		}
		states = append(states, m)
	}
	m, err := p.e.resolve(ctx, tx, p.l.room, states)
	return m, len(states) > 0, err
}

// aside says whether an event takes a place that nobody sees: what it sets is not so.
func (p *past) aside(ev *event.Event) bool { return p.known[ev.ID].Rejected || p.soft[ev.ID] }

// judge authorizes an event by the state before it. That one was told, so that what it refuses is not rejected for ever in
// the eyes of the events that name it. A state that was assumed lacks too much to be judged by.
func (p *past) judge(tx *store.Tx, ev *event.Event, before store.StateMap) error {
	if p.guess || p.known[ev.ID].Rejected {
		return nil
	}
	err := authorizeBy(tx, ev, before)
	var refusal *eventauth.Refusal
	if err == nil || !errors.As(err, &refusal) {
		return err
	}
	p.refused.add(ev.ID, err)
	p.soft[ev.ID] = true
	return nil
}

// assume works out a state behind what the events follow from the state before the event that follows them, for want of a
// server that tells it. That is only done for as many of the newest events as all lead back to one event that is not
// here: what none of them sets was the same before them. What they set is not known before, except that a membership or
// power levels name what they replace among their auth events. Where the history visibility changed, no event from before
// it is taken: it might be shown to who may not see it.
func (p *past) assume(tx *store.Tx) (bool, error) {
	child, err := p.follower(tx)
	if err != nil || child == nil {
		return false, err
	}
	outside := map[id.EventID]bool{}
	leads := func(ev *event.Event) bool {
		for _, i := range ev.PrevEvents {
			if p.placed[i] != nil {
				return false
			}
			outside[i] = true
		}
		return true
	}
	taken, before := 0, id.EventID("")
	if !leads(child.Event) {
		return false, nil
	}
	for i, v := range p.events {
		if ev := v.Event(); !outside[ev.ID] || !leads(ev) {
			break
		}
		if delete(outside, v.Event().ID); len(outside) == 1 {
			taken = i + 1
			for before = range outside {
			}
		}
	}
	if taken == 0 {
		return false, nil
	}
	p.events = p.events[:taken]
	state, err := tx.States.Map(child.StateBefore)
	if err != nil {
		return false, err
	}
	p.behind[before] = p.without(state)
	return true, nil
}

// follower is the event here that the newest of the events comes before; nil if it comes before another one too.
func (p *past) follower(tx *store.Tx) (*store.Event, error) {
	var child *store.Event
	for _, m := range p.missing {
		list, err := tx.Events.ByNID(m.Child)
		if err != nil {
			return nil, err
		}
		if len(list) == 0 || m.ID != p.events[0].Event().ID {
			continue
		}
		if child != nil {
			return nil, nil
		}
		// The predecessors of this one that are here lead elsewhere.
		here, err := tx.Events.ByID(list[0].PrevEvents...)
		if err != nil || slices.ContainsFunc(here, func(ev *store.Event) bool { return !ev.Outlier() }) {
			return nil, err
		}
		child = list[0]
	}
	return child, nil
}

// without takes out of a state what the events set, and puts in what they are known to replace.
func (p *past) without(state store.StateMap) store.StateMap {
	seen := map[event.StateKeyTuple]bool{}
	for _, v := range slices.Backward(p.events) {
		ev := v.Event()
		if ev.StateKey == nil || seen[ev.Tuple()] {
			continue
		}
		t := ev.Tuple()
		seen[t] = true
		state = state.Set(p.keys[t], 0)
		for _, i := range ev.AuthEvents {
			if a := p.known[i]; a != nil && !a.Rejected && a.StateKeyIs(t.Type, t.StateKey) {
				state = state.Set(p.keys[t], a.NID)
			}
		}
		if t == (event.StateKeyTuple{Type: event.TypeHistoryVisibility}) {
			p.hidden = p.keys[t]
		}
	}
	return state
}

// write gives the events of which the state before is known their place.
func (p *past) write(ctx context.Context) (n int, err error) {
	p.l.placing.Lock()
	defer p.l.placing.Unlock()
	err = p.e.change(ctx, p.l.room.ID, func(d *draft) error {
		n, err = p.draft(ctx, d)
		return err
	})
	return n, err
}

func (p *past) draft(ctx context.Context, d *draft) (int, error) {
	var ids []id.EventID
	for _, v := range p.events {
		ids = append(append(ids, v.Event().ID), v.Event().PrevEvents...)
	}
	came, awaited := map[id.EventID]bool{}, map[id.EventID]bool{}
	err := d.view(ctx, func(tx *store.Tx) error {
		list, err := tx.Events.ByID(ids...)
		for _, ev := range list {
			came[ev.ID] = !ev.Outlier() // another way meanwhile
		}
		if err == nil {
			awaited, err = tx.Relations.Awaited(p.l.room.NID, ids)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	batch := map[id.EventID]*addition{}
	latest := p.parent
	for _, v := range slices.Backward(p.events) {
		ev := v.Event()
		before, ok := p.before[ev.ID]
		if !ok || came[ev.ID] || p.hidden != 0 && before.Get(p.hidden) == 0 {
			continue
		}
		if latest, err = d.pastSnapshot(ctx, latest, before); err != nil {
			return 0, err
		}
		a := &addition{
			ev: &store.Event{
				Event: ev, NID: p.known[ev.ID].NID, Room: p.l.room.NID, StateBefore: latest.NID, Known: true,
				Rejected: p.known[ev.ID].Rejected, SoftFailed: p.soft[ev.ID],
			},
			past: true, came: true, holds: latest.NID == p.parent.NID, aside: p.aside(ev),
		}
		a.keepRedacted(p.known[ev.ID])
		batch[ev.ID] = a
		d.additions = append(d.additions, a)
	}
	slices.Reverse(d.additions)
	for _, a := range batch {
		for _, i := range a.ev.PrevEvents {
			if batch[i] == nil && p.placed[i] == nil && !came[i] {
				a.missing = append(a.missing, i)
			}
		}
	}
	return len(batch), d.redactPast(ctx, p, batch, awaited)
}

// redactPast carries out the redactions among events of the past, and those that waited for them.
func (d *draft) redactPast(ctx context.Context, p *past, batch map[id.EventID]*addition, awaited map[id.EventID]bool) error {
	for _, a := range slices.Clone(d.additions) {
		if a.aside || !isRedaction(a.ev.Event) {
			continue
		}
		target := batch[a.ev.Redacts]
		if target == nil || target.aside {
			if _, err := d.findTarget(ctx, a); err != nil {
				return err
			}
			if err := d.redactState(ctx, a.redacts, a.ev.NID); err != nil {
				return err
			}
			continue
		}
		err := d.view(ctx, func(tx *store.Tx) error { return d.effect(tx, a, target.ev, true) })
		if err != nil {
			return err
		}
		r := a.redacts
		a.redacts = nil // the target is written as it is to be
		if r != nil && r.redacted != nil {
			target.ev.Event, target.ev.RedactedBy = r.redacted, a.ev.NID
			if err := d.redactState(ctx, r, a.ev.NID); err != nil {
				return err
			}
		}
	}
	for i := range awaited {
		if a := batch[i]; a != nil && !a.aside {
			if err := d.redactedBefore(ctx, a); err != nil {
				return err
			}
		}
	}
	return nil
}

// pastSnapshot gives a state of the past a number: that of another one if it is the same, else one of its own.
func (d *draft) pastSnapshot(ctx context.Context, parent store.Snapshot, m store.StateMap) (store.Snapshot, error) {
	var changes []store.StateChange
	parent.Map.Diff(m, func(key int64, _, now store.EventNID) {
		changes = append(changes, store.StateChange{Key: key, Event: now})
	})
	if len(changes) == 0 {
		return parent, nil
	}
	nid, err := d.e.Store.NextNumber(ctx)
	if err != nil {
		return parent, err
	}
	next := parent.Next(store.StateNID(nid), changes)
	d.snapshots = append(d.snapshots, newSnapshot{next, parent.NID, changes})
	return next, nil
}
