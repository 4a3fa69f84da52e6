package room

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Limits of what is asked of other servers because of one event.
const (
	maxMissing = 20 // events between it and what is here
	// maxFurtherTold is how many of the room's ends are told that its head has no place for, the newest: what is behind any of
	// them is not to be sent. With those of the head they are no more than servers take.
	maxFurtherTold = maxEnds - maxNear
	maxSingly      = 20     // events asked for one by one
	maxDescribe    = 200000 // events that may describe a state
)

// sorted orders events so that each comes behind those that it names by follows.
func sorted(events []event.Verified, follows func(*event.Event) []id.EventID) []event.Verified {
	byID := make(map[id.EventID]event.Verified, len(events))
	for _, v := range events {
		byID[v.Event().ID] = v
	}
	out := make([]event.Verified, 0, len(events))
	const begun, done = 1, 2
	marks := make(map[id.EventID]int, len(events))
	for _, v := range events {
		stack := []event.Verified{v}
		for len(stack) > 0 {
			top := stack[len(stack)-1]
			ev := top.Event()
			if marks[ev.ID] != 0 {
				stack = stack[:len(stack)-1]
				if marks[ev.ID] == begun {
					marks[ev.ID] = done
					out = append(out, top)
				}
				continue
			}
			marks[ev.ID] = begun
			for _, before := range follows(ev) {
				if next, ok := byID[before]; ok && marks[before] == 0 {
					stack = append(stack, next)
				}
			}
		}
	}
	return out
}

func prevEvents(ev *event.Event) []id.EventID { return ev.PrevEvents }
func authEvents(ev *event.Event) []id.EventID { return ev.AuthEvents }

// fault says whether an error is none of the event's that was received, nor of the server that was asked.
func fault(err error) bool {
	if err == nil {
		return false
	}
	for _, reason := range []error{
		ErrForbidden, ErrNotFound, ErrEventNotFound, ErrUnknownVersion, ErrBadRequest, ErrUnreachable, ErrCannotAuthorize, ErrCannotGrant,
		event.ErrMalformed, event.ErrTooLarge, sign.ErrNotSigned, sign.ErrBadSignature, store.ErrText,
	} {
		if errors.Is(err, reason) {
			return false
		}
	}
	return true
}

// fetchMissing fetches the events between the room's ends and an event and takes them in. What follows one that can't be
// taken in for the moment is left for when it can: without its predecessor it would have no more than a state told by others.
func (e *Engine) fetchMissing(ctx context.Context, origin id.ServerName, l *live, ev *event.Event) error {
	l.mu.Lock()
	if err := e.load(ctx, l); err != nil {
		l.mu.Unlock()
		return err
	}
	var earliest []id.EventID
	for _, x := range append(slices.Clone(l.head.Extremities), l.further[max(0, len(l.further)-maxFurtherTold):]...) {
		earliest = append(earliest, x.ID)
	}
	l.mu.Unlock()
	ctx, release := load.WithHold(ctx, string(origin))
	defer release()
	raw, err := e.Remote.MissingEvents(ctx, origin, l.room.ID, earliest, []id.EventID{ev.ID}, maxMissing)
	if err != nil {
		return err
	}
	if len(raw) > maxMissing {
		raw = raw[:maxMissing]
	}
	verified, left := e.check(ctx, l.room, origin, raw)
	var unreached error // something about one could not be asked
	first := passing(left)
	waits := map[id.EventID]bool{}
	for _, u := range left {
		waits[u.ev.ID] = fault(u.err)
	}
	var refused tally
	for _, v := range sorted(verified, prevEvents) {
		before := v.Event()
		if before.ID == ev.ID {
			continue
		}
		if slices.ContainsFunc(before.PrevEvents, func(p id.EventID) bool { return waits[p] }) {
			waits[before.ID] = true
			continue
		}
		if err := e.receive(ctx, origin, l, v, false); fault(err) {
			waits[before.ID] = true
			first = cmp.Or(first, fmt.Errorf("receive %s: %w", before.ID, err))
		} else if err != nil {
			refused.add(before.ID, err)
			if errors.Is(err, ErrUnreachable) {
				unreached = err
			}
		}
	}
	refused.tell(e.Log, "missing events are refused", "room", l.room.ID, "server", origin)
	return cmp.Or(first, unreached)
}

// fetchAuth fetches the events that authorize an event, and keeps them as outliers.
func (e *Engine) fetchAuth(ctx context.Context, origin id.ServerName, room *store.Room, ev *event.Event, missing []id.EventID) error {
	ctx, release := load.WithHold(ctx, string(origin))
	defer release()
	raw, err := e.Remote.EventAuth(ctx, origin, room.ID, ev.ID)
	if err != nil {
		// Some servers have no answer for an event that they have not accepted themselves.
		if raw, err = e.fetchChain(ctx, origin, room, missing); err != nil {
			return err
		}
	}
	verified, left := e.check(ctx, room, origin, raw)
	known, err := e.keepOutliers(ctx, room, verified)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(missing, func(i id.EventID) bool { return known[i] == nil }) {
		return passing(left)
	}
	return nil
}

// fetchChain fetches events one by one, and those that authorize them, as long as they are few.
func (e *Engine) fetchChain(ctx context.Context, origin id.ServerName, room *store.Room, missing []id.EventID) ([]json.RawMessage, error) {
	var out []json.RawMessage
	asked := map[id.EventID]bool{}
	for len(missing) > 0 && len(asked)+len(missing) <= maxSingly {
		raw, err := e.fetchSingly(ctx, origin, missing)
		if err != nil {
			return nil, err
		}
		out = append(out, raw...)
		for _, i := range missing {
			asked[i] = true
		}
		verified, _ := e.check(ctx, room, origin, raw) // what is left is looked at with the whole chain
		known := map[id.EventID]*store.Event{}
		if _, err := e.knownAround(ctx, room, verified, known); err != nil {
			return nil, err
		}
		missing = nil
		for _, v := range verified {
			for _, i := range v.Event().AuthEvents {
				if known[i] == nil && !asked[i] && !slices.Contains(missing, i) {
					missing = append(missing, i)
				}
			}
		}
	}
	return out, nil
}

func (e *Engine) fetchSingly(ctx context.Context, origin id.ServerName, ids []id.EventID) ([]json.RawMessage, error) {
	var out []json.RawMessage
	var errs []error
	for _, i := range ids {
		raw, err := e.Remote.Event(ctx, origin, i)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, raw)
	}
	if len(out) == 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

// judgedAtOnce is how many events are judged with what authorizes them at hand, which may be 64 KB for each of ten.
const judgedAtOnce = 50

// keepOutliers stores events that have no place in the room's history here, each judged by its own auth events. What
// can't be judged, since one of those is unknown, is left out: it may come complete another time. It returns all of
// them that are known then, and what they name, by ID; of what was here before and is not redacted, only outlines.
func (e *Engine) keepOutliers(ctx context.Context, room *store.Room, events []event.Verified) (map[id.EventID]*store.Event, error) {
	events = sorted(events, authEvents)
	known := make(map[id.EventID]*store.Event, len(events))
	create, err := e.createAmong(ctx, room, events)
	if err != nil {
		return nil, err
	}
	judging := outliers{known: known, create: create}
	var fresh []*store.Event
	for some := range slices.Chunk(events, judgedAtOnce) {
		read, err := e.knownAround(ctx, room, some, known)
		if err != nil {
			return nil, err
		}
		for _, v := range some {
			out, err := e.outlier(ctx, &judging, room, v.Event())
			if err != nil {
				return nil, err
			}
			if out != nil {
				known[out.ID] = out
				fresh = append(fresh, out)
			}
		}
		for _, ev := range read {
			if ev.RedactedBy == 0 {
				known[ev.ID] = bare(ev)
			}
		}
	}
	judging.lacking.tell(e.Log, "events are set aside: an auth event is missing", "room", room.ID)
	judging.rejected.tell(e.Log, "events are rejected", "room", room.ID)
	for some := range portions(fresh) {
		err := e.Store.Update(ctx, func(tx *store.Tx) error { return insertOutliers(tx, room, some) })
		if err != nil {
			return nil, fmt.Errorf("store outliers: %w", err)
		}
	}
	return known, e.asStored(ctx, known, fresh)
}

// outliers are events that are judged one after another by what is known, and what is to be told of them.
type outliers struct {
	cache             eventauth.Cache
	known             map[id.EventID]*store.Event
	create            *event.Event
	lacking, rejected tally
}

// outlier judges an event by its auth events; it returns nil for one that is known or can't be judged.
func (e *Engine) outlier(ctx context.Context, o *outliers, room *store.Room, ev *event.Event) (*store.Event, error) {
	if o.known[ev.ID] != nil {
		return nil, nil
	}
	if i := slices.IndexFunc(ev.AuthEvents, func(a id.EventID) bool { return o.known[a] == nil }); i >= 0 {
		o.lacking.add(ev.ID, fmt.Errorf("lacks %s", ev.AuthEvents[i]))
		return nil, nil
	}
	nid, err := e.Store.NextNumber(ctx)
	if err != nil {
		return nil, err
	}
	out := &store.Event{Event: ev, NID: store.EventNID(nid), Room: room.NID}
	if err := judge(&o.cache, ev, o.known, o.create); err != nil {
		o.rejected.add(ev.ID, err)
		out.Rejected = true
	}
	return out, nil
}

// asStored replaces, among what is known, events that were just written by what is there: another process may have stored
// some of them first, under other numbers, and some are redacted. The others are held once.
func (e *Engine) asStored(ctx context.Context, known map[id.EventID]*store.Event, written []*store.Event) error {
	for some := range slices.Chunk(written, readAtOnce) {
		ids := make([]id.EventID, len(some))
		for i, ev := range some {
			ids[i] = ev.ID
		}
		err := e.Store.View(ctx, func(tx *store.Tx) error {
			list, err := tx.Events.ByID(ids...)
			for _, ev := range list {
				if ev.NID != known[ev.ID].NID || ev.RedactedBy != 0 {
					known[ev.ID] = ev
				}
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Limits of what is written of many events at a time, in events and in bytes: all others who write wait meanwhile.
const (
	writtenAtOnce = 1000
	writtenSize   = 1 << 20
)

// portions cuts events into what is written at a time.
func portions(events []*store.Event) iter.Seq[[]*store.Event] {
	return func(yield func([]*store.Event) bool) {
		from, size := 0, 0
		for i, ev := range events {
			if i > from && (i-from == writtenAtOnce || size+len(ev.JSON) > writtenSize) {
				if !yield(events[from:i]) {
					return
				}
				from, size = i, 0
			}
			size += len(ev.JSON)
		}
		if from < len(events) {
			yield(events[from:])
		}
	}
}

// insertOutliers stores events without a place, redacted if a redaction waited for them.
func insertOutliers(tx *store.Tx, room *store.Room, events []*store.Event) error {
	ids := make([]id.EventID, len(events))
	for i, ev := range events {
		ids[i] = ev.ID
	}
	awaited, err := tx.Relations.Awaited(room.NID, ids)
	if err != nil {
		return err
	}
	for _, ev := range events {
		if err := tx.Events.InsertAside(ev); err != nil {
			return err
		}
		if !awaited[ev.ID] || ev.Rejected || ev.StateKey == nil {
			continue
		}
		if err := redactOutlier(tx, room.Version, ev); err != nil {
			return err
		}
	}
	return nil
}

// knownAround adds to known which of some events and their auth events are stored, and returns what it read. What is
// known of these before stays, unless one is judged by it and it is but an outline.
func (e *Engine) knownAround(ctx context.Context, room *store.Room, events []event.Verified, known map[id.EventID]*store.Event) ([]*store.Event, error) {
	wanted := map[id.EventID]bool{}
	for _, v := range events {
		if known[v.Event().ID] == nil {
			wanted[v.Event().ID] = true
		}
		for _, a := range v.Event().AuthEvents {
			if ev := known[a]; ev == nil || ev.JSON == nil {
				wanted[a] = true
			}
		}
	}
	var read []*store.Event
	err := e.Store.View(ctx, func(tx *store.Tx) (err error) {
		read, err = tx.Events.ByID(slices.Collect(maps.Keys(wanted))...)
		return err
	})
	read = slices.DeleteFunc(read, func(ev *store.Event) bool { return ev.Room != room.NID })
	for _, ev := range read {
		known[ev.ID] = ev
	}
	return read, err
}

// createAmong finds the room's m.room.create where auth events don't name it.
func (e *Engine) createAmong(ctx context.Context, room *store.Room, events []event.Verified) (create *event.Event, err error) {
	if !room.Version.NoCreateInAuthEvents {
		return nil, nil
	}
	for _, v := range events {
		if v.Event().Type == event.TypeCreate {
			return v.Event(), nil
		}
	}
	err = e.Store.View(ctx, func(tx *store.Tx) error {
		list, err := tx.Events.ByID(createID(room))
		for _, ev := range list {
			if ev.Room == room.NID && ev.Type == event.TypeCreate {
				create = ev.Event
			}
		}
		return err
	})
	return create, err
}

// judge authorizes an event by its auth events, which have to be known.
func judge(cache *eventauth.Cache, ev *event.Event, known map[id.EventID]*store.Event, create *event.Event) error {
	auth := make([]*event.Event, 0, len(ev.AuthEvents))
	state := eventauth.Map{}
	for _, i := range ev.AuthEvents {
		a := known[i]
		if a.Rejected {
			return eventauth.RefuseRejected(ev)
		}
		auth = append(auth, a.Event)
		state[a.Tuple()] = a.Event
	}
	if err := eventauth.CheckAuthEvents(ev, auth); err != nil {
		return err
	}
	ctx, _ := cache.Context(state, create)
	return ctx.Authorize(ev, state)
}

// fetchState is askState for what can wait: that something of the state can't be had for the moment is an error.
func (e *Engine) fetchState(ctx context.Context, origin id.ServerName, room *store.Room, at id.EventID) (store.StateMap, error) {
	m, left, err := e.askState(ctx, origin, room, at)
	return m, cmp.Or(err, passing(left))
}

// askState asks for the state before an event whose predecessors are not here. A state without the
// room's m.room.create is an error. What else of it can't be had is left out: rooms have members of servers that are gone,
// whose keys nobody tells any more. What may be had later is told of.
func (e *Engine) askState(ctx context.Context, origin id.ServerName, room *store.Room, at id.EventID) (m store.StateMap, left []unproven, err error) {
	ctx, release := load.WithHold(ctx, string(origin))
	defer release()
	stateIDs, authIDs, err := e.Remote.StateIDs(ctx, origin, room.ID, at)
	if err != nil {
		return m, nil, err
	}
	if len(stateIDs)+len(authIDs) > maxDescribe {
		return m, nil, fmt.Errorf("%w: the state is too large", ErrBadRequest)
	}
	var missing []id.EventID
	err = e.Store.View(ctx, func(tx *store.Tx) error {
		for chunk := range slices.Chunk(append(slices.Clone(stateIDs), authIDs...), 500) {
			list, err := tx.Events.ByID(chunk...)
			if err != nil {
				return err
			}
			missing = append(missing, absent(chunk, list)...)
		}
		return nil
	})
	if err != nil {
		return m, nil, err
	}
	if len(missing) > 0 {
		raw, err := e.fetchMany(ctx, origin, room, at, missing)
		if err != nil {
			return m, nil, err
		}
		var verified []event.Verified
		if verified, left = e.check(ctx, room, origin, raw); len(left) > 0 {
			wanted := make(map[id.EventID]bool, len(missing))
			for _, i := range missing {
				wanted[i] = true
			}
			left = slices.DeleteFunc(left, func(u unproven) bool { return !wanted[u.ev.ID] })
		}
		if _, err := e.keepOutliers(ctx, room, verified); err != nil {
			return m, nil, err
		}
	}
	if m, err = e.stateOf(ctx, room, stateIDs); err != nil {
		return m, nil, err
	}
	return m, left, e.Store.View(ctx, func(tx *store.Tx) error {
		create, err := tx.States.Event(m, event.StateKeyTuple{Type: event.TypeCreate})
		if err == nil && create == nil {
			err = fmt.Errorf("%w: the state that %s tells has no m.room.create", ErrForbidden, origin)
		}
		return err
	})
}

func (e *Engine) fetchMany(ctx context.Context, origin id.ServerName, room *store.Room, at id.EventID, missing []id.EventID) ([]json.RawMessage, error) {
	if len(missing) <= maxSingly {
		if raw, err := e.fetchSingly(ctx, origin, missing); err == nil && len(raw) == len(missing) {
			return raw, nil
		}
	}
	state, auth, err := e.Remote.State(ctx, origin, room.ID, at)
	return append(state, auth...), err
}

// stateOf makes a state of events. Those that are unknown, rejected, of another room or no state events are left out.
func (e *Engine) stateOf(ctx context.Context, room *store.Room, ids []id.EventID) (m store.StateMap, err error) {
	var events []*store.Event
	err = e.Store.View(ctx, func(tx *store.Tx) error {
		events, err = outlines(tx.Events.ByID, ids)
		return err
	})
	if err != nil {
		return m, err
	}
	events = slices.DeleteFunc(events, func(ev *store.Event) bool { return ev.Room != room.NID || ev.StateKey == nil || ev.Rejected })
	tuples := make([]event.StateKeyTuple, 0, len(events))
	for _, ev := range events {
		tuples = append(tuples, ev.Tuple())
	}
	keys, err := e.Store.StateKeys(ctx, tuples)
	if err != nil {
		return m, err
	}
	for _, ev := range events {
		m = m.Set(keys[ev.Tuple()], ev.NID)
	}
	return m, nil
}
