package room

import (
	"errors"
	"fmt"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/store"
)

// The state before a redaction says whose events it may redact, and all servers agree on that; but who lost a power can still
// write events that follow older ones. As with soft failure, a redaction therefore has to be allowed by the state of the room when it
// comes too, by whichever way and whether its target is here or still to come. Only between two events from before this
// server's users were in the room the state before it decides alone: what others redacted then was redacted when we came.

// reaches is whose events a redaction may redact.
type reaches struct {
	past    store.Reach // of those from the room's past
	current store.Reach // of the others
}

func (r reaches) on(past bool) store.Reach {
	if past {
		return r.past
	}
	return r.current
}

// reach is whose events an addition that is a redaction may redact.
func (d *draft) reach(tx *store.Tx, a *addition) (r reaches, err error) {
	before := reachOf(d.room.Version, d.auth, a.ev)
	now := before
	if a.ev.StateBefore != d.head.State {
		if before, err = reachBefore(tx, d.room.Version, a.ev); err != nil {
			return r, err
		}
	}
	past := false
	if a.past { // by other ways only those come this far that the current state allows
		if past, err = d.beforeUs(tx, a.ev); err != nil {
			return r, err
		}
		if now, err = d.reachNow(tx, a.ev); err != nil {
			return r, err
		}
	}
	r.current = before.Within(now)
	if r.past = r.current; past {
		r.past = before
	}
	return r, nil
}

// reachBefore is whose events a redaction may redact by the state before it.
func reachBefore(tx *store.Tx, v *event.Version, by *store.Event) (store.Reach, error) {
	before, err := tx.States.Map(by.StateBefore)
	if err != nil {
		return store.Nobody, err
	}
	view := &stateView{tx: tx, m: before}
	auth := eventauth.NewContext(view, nil)
	return reachOf(v, auth, by), view.err
}

// reachOf is whose events a redaction may redact that a state allows (room version 3, "Handling redactions"; before, the
// authorization rules see to it alone).
func reachOf(v *event.Version, auth *eventauth.Context, by *store.Event) store.Reach {
	if v.RedactionAuth || auth.UserLevel(by.Sender) >= auth.Levels().Redact() {
		return store.Everybody
	}
	return store.Reach(by.Sender.Server())
}

// reachNow is whose events a redaction of the past may redact by the current state. Who left by themselves takes back no more than
// what they said.
func (d *draft) reachNow(tx *store.Tx, by *store.Event) (store.Reach, error) {
	err := authorizeBy(tx, by.Event, d.state.Map)
	var refusal *eventauth.Refusal
	switch {
	case err == nil:
		return reachOf(d.room.Version, d.auth, by), nil
	case !errors.As(err, &refusal):
		return store.Nobody, err
	}
	member, err := tx.States.Event(d.state.Map, event.StateKeyTuple{Type: event.TypeMember, StateKey: string(by.Sender)})
	if err != nil || member == nil || member.Membership() != "leave" || member.Sender != by.Sender ||
		d.room.Version.RedactionAuth || d.auth.UserLevel(by.Sender) < d.auth.Levels().Event(by.Type, false) {
		return store.Nobody, err
	}
	return store.Reach(by.Sender), nil
}

// ofPast says whether the target of a redaction is of the room's past alone: it came by backfill, from before this server's
// users were in the room, and is no part of the current state.
func (d *draft) ofPast(tx *store.Tx, target *store.Event, backfilled bool) (bool, error) {
	if !backfilled {
		return false, nil
	}
	if target.StateKey != nil {
		key, err := tx.States.FindKey(target.Tuple())
		if err != nil || d.state.Map.Get(key) == target.NID {
			return false, err
		}
	}
	return d.beforeUs(tx, target)
}

// beforeUs says whether an event is from before users of this server were in the room; no, if there are too many to tell.
func (d *draft) beforeUs(tx *store.Tx, ev *store.Event) (bool, error) {
	if d.ours == nil {
		d.ours = newVisibility(tx, d.room, d.e.Server)
	}
	d.ours.tx = tx
	m, err := tx.States.Map(ev.StateBefore)
	if err != nil {
		return false, fmt.Errorf("the state before %s: %w", ev.ID, err)
	}
	joined, err := d.ours.any(m, "join")
	return !joined && d.ours.looks >= 0 && d.ours.size > 0, err
}
