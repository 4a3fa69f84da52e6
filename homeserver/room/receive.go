package room

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Received is what became of an event that another server sent.
type Received struct {
	ID  id.EventID
	Err error // nil if it is in the room, also if it was before
}

// Receive takes in events of a room from another server: each is parsed, verified, completed with what it refers to,
// authorized and appended, in this order (Server-Server API, "Checks performed on receipt of a PDU"). An event at
// fault is refused alone. While a user is about to come into the room nothing is: ErrEntering.
func (e *Engine) Receive(ctx context.Context, origin id.ServerName, roomID id.RoomID, raw []json.RawMessage) []Received {
	out := make([]Received, len(raw))
	fail := func(err error) []Received {
		for i := range out {
			if out[i].Err == nil {
				out[i].Err = err
			}
		}
		return out
	}
	entering := e.anyEnters(roomID) // asked first: who is no longer about to come in by then is in
	in, err := e.inRoom(ctx, roomID)
	if err == nil && !in && entering {
		err = fmt.Errorf("%w: %s", ErrEntering, roomID)
	}
	if err != nil {
		return fail(err)
	}
	if !in {
		return e.receiveOutside(ctx, roomID, raw)
	}
	l, err := e.live(ctx, roomID)
	if err != nil {
		return fail(err)
	}
	var events []*event.Event
	var places []int
	for i, r := range raw {
		ev, err := event.Parse(l.room.Version, r)
		if err == nil && ev.RoomID != roomID {
			err = fmt.Errorf("%w: the event is of another room", ErrBadRequest)
		}
		if out[i].Err = err; err == nil {
			out[i].ID = ev.ID
			events, places = append(events, ev), append(places, i)
		}
	}
	done, err := l.turn(ctx, origin)
	if err != nil {
		return fail(err)
	}
	defer done()
	waits := map[id.EventID]bool{}
	for i, result := range e.Remote.Verify(ctx, "", events) {
		at, ev := places[i], events[i]
		if out[at].Err = result.Err; result.Err == nil {
			out[at].Err = e.receive(ctx, origin, l, result.Verified, true)
		}
		if first := slices.IndexFunc(ev.PrevEvents, func(p id.EventID) bool { return waits[p] }); first >= 0 && errors.Is(out[at].Err, ErrEventNotFound) {
			out[at].Err = &WaitsError{ev.PrevEvents[first]}
		}
		waits[ev.ID] = fault(out[at].Err) || errors.Is(out[at].Err, ErrUnreachable)
	}
	return out
}

// WaitsError says that an event waits for one that it follows: that came, and could not be taken in yet.
type WaitsError struct{ For id.EventID }

func (w *WaitsError) Error() string {
	return fmt.Sprintf("%s, which it follows, could not be taken in yet; try again later", w.For)
}

// receiveVerified takes in one event that was verified already: one that we signed with another server.
func (e *Engine) receiveVerified(ctx context.Context, origin id.ServerName, l *live, v event.Verified) error {
	done, err := l.turn(ctx, origin)
	if err != nil {
		return err
	}
	defer done()
	return e.receive(ctx, origin, l, v, true)
}

// around is what is known around a received event.
type around struct {
	known   *store.Event // the event itself, if it was here before
	prev    []*store.Event
	missing []id.EventID // predecessors that are not here, or only as outliers
	auth    []*store.Event
	noAuth  []id.EventID // auth events that are not here
	foreign error        // it names events of another room
}

// lookAround finds what is known around an event, and waits for what of it is about to be written: others are told of that
// already, and send nothing that we seem to have. Nobody may tie a room to another one: what an event names has to be
// of its room, else it is rejected.
func (e *Engine) lookAround(ctx context.Context, l *live, ev *event.Event) (around, error) {
	l.mu.Lock()
	queued := slices.Clone(l.queued)
	l.mu.Unlock()
	a, err := e.stored(ctx, l.room, ev)
	if err != nil || len(queued) == 0 {
		return a, err
	}
	wanted := func(add *addition) bool {
		return slices.Contains(a.missing, add.ev.ID) || slices.Contains(a.noAuth, add.ev.ID)
	}
	waited := false
	for _, d := range queued {
		if !slices.ContainsFunc(d.additions, wanted) {
			continue
		}
		select {
		case <-d.result.done: // if it was not written, it is missing
			waited = true
		case <-ctx.Done():
			return a, ctx.Err()
		}
	}
	if waited {
		return e.stored(ctx, l.room, ev)
	}
	return a, nil
}

// stored is what the database has around an event.
func (e *Engine) stored(ctx context.Context, room *store.Room, ev *event.Event) (a around, err error) {
	foreign := func(x *store.Event) bool { return x.Room != room.NID }
	err = e.Store.View(ctx, func(tx *store.Tx) error {
		if a.known, err = tx.Events.Get(ev.ID); err != nil {
			return err
		}
		prev, err := tx.Events.ByID(ev.PrevEvents...)
		if err != nil {
			return err
		}
		if a.auth, err = tx.Events.ByID(ev.AuthEvents...); err != nil {
			return err
		}
		if a.known != nil && foreign(a.known) {
			return fmt.Errorf("%w: %s is of another room", ErrForbidden, ev.ID)
		}
		if slices.ContainsFunc(prev, foreign) || slices.ContainsFunc(a.auth, foreign) {
			a.foreign = fmt.Errorf("%w: %s names events of another room", ErrForbidden, ev.ID)
		}
		for _, p := range prev {
			if foreign(p) {
				continue
			}
			if !p.Outlier() || p.Type == event.TypeCreate {
				a.prev = append(a.prev, p)
			}
		}
		a.missing, a.noAuth = absent(ev.PrevEvents, a.prev), absent(ev.AuthEvents, a.auth)
		return nil
	})
	return a, err
}

func absent(ids []id.EventID, found []*store.Event) []id.EventID {
	var out []id.EventID
	for _, i := range ids {
		if !slices.ContainsFunc(found, func(ev *store.Event) bool { return ev.ID == i }) && !slices.Contains(out, i) {
			out = append(out, i)
		}
	}
	return out
}

// receive takes in one verified event. If deep, the events between it and what is here are fetched first.
func (e *Engine) receive(ctx context.Context, origin id.ServerName, l *live, v event.Verified, deep bool) error {
	ev := v.Event()
	a, err := e.lookAround(ctx, l, ev)
	if err != nil {
		return err
	}
	if a.known != nil && !a.known.Outlier() {
		if a.known.Rejected {
			return fmt.Errorf("%w: %s was rejected before", ErrForbidden, ev.ID)
		}
		return nil
	}
	if ev.Type == event.TypeCreate {
		return fmt.Errorf("%w: a room has one m.room.create", ErrForbidden)
	}
	if a.foreign != nil {
		return e.rejectForeign(ctx, l, v, a)
	}
	if len(a.missing) > 0 && deep {
		notYet := e.fetchMissing(ctx, origin, l, ev)
		if notYet != nil && !fault(notYet) {
			e.Log.Info("cannot fetch missing events", "room", l.room.ID, "server", origin, "err", notYet)
		}
		held, err := e.held(ctx, origin, l.room, a.missing) // asked first: what waits no longer by then is here
		if err != nil {
			return err
		}
		if a, err = e.lookAround(ctx, l, ev); err != nil {
			return err
		}
		if len(a.missing) > 0 {
			return lacking(ev, a.missing[0], held, notYet)
		}
	}
	var described []store.StateMap
	if len(a.missing) > 0 {
		// It comes with its auth chain, which may hold what authorizes the event.
		state, err := e.fetchState(ctx, origin, l.room, ev.ID)
		if err != nil {
			return fmt.Errorf("find the state before %s: %w", ev.ID, err)
		}
		described = append(described, state)
		if a, err = e.lookAround(ctx, l, ev); err != nil {
			return err
		}
	}
	if len(a.noAuth) > 0 {
		if err := e.fetchAuth(ctx, origin, l.room, ev, a.noAuth); err != nil {
			return fmt.Errorf("fetch what authorizes %s: %w", ev.ID, err)
		}
		if a, err = e.lookAround(ctx, l, ev); err != nil {
			return err
		}
	}
	rejection := checkAuth(ev, a)
	if rejection != nil && a.noAuth != nil {
		return rejection // not known enough of to remember that it is bad
	}
	before, err := e.stateAfterAll(ctx, l.room, a.prev, described)
	if err != nil {
		return fmt.Errorf("find the state before %s: %w", ev.ID, err)
	}
	if ev.StateKey != nil {
		if _, err := e.Store.StateKey(ctx, ev.Tuple()); err != nil {
			return err
		}
	}
	return e.appendReceived(ctx, l, arrival{v: v, around: a, before: before, rejection: rejection})
}

// held says whether a predecessor of an event waits here itself, or may: what a server sent before waits.
func (e *Engine) held(ctx context.Context, origin id.ServerName, room *store.Room, missing []id.EventID) (held bool, err error) {
	err = e.Store.View(ctx, func(tx *store.Tx) error {
		held, err = tx.Held.Holds(room.ID, missing, origin)
		return err
	})
	return held, err
}

// lacking is why an event is not taken in whose predecessors are missing. That they can't be had just now, or that one waits
// here itself, is no verdict on it: the event is then to wait as well.
func lacking(ev *event.Event, missing id.EventID, held bool, notYet error) error {
	switch {
	case held:
		return &WaitsError{missing}
	case fault(notYet) || errors.Is(notYet, ErrUnreachable):
		return fmt.Errorf("fetch %s, which %s follows: %w", missing, ev.ID, notYet)
	}
	// Who pushes an event can name what comes before it. Taking a state on trust instead is for where a long
	// gap ends; the next event will show whether this is one.
	return fmt.Errorf("%w: %s, which %s follows", ErrEventNotFound, missing, ev.ID)
}

// rejectForeign remembers an event that names events of another room as rejected, so that what follows it has its place
// (Server-Server API, "Rejection"). The state before it is that behind those predecessors that are of this room and here,
// or the current one.
func (e *Engine) rejectForeign(ctx context.Context, l *live, v event.Verified, a around) error {
	before, err := e.stateAfterAll(ctx, l.room, a.prev, nil)
	if err != nil {
		return err
	}
	if len(a.prev) == 0 {
		if err := e.look(ctx, l, func(d *draft) error { before = d.state.Map; return nil }); err != nil {
			return err
		}
	}
	a.missing = nil
	return e.appendReceived(ctx, l, arrival{v: v, around: a, before: before, rejection: a.foreign})
}

// arrival is a received event with what was found out about it.
type arrival struct {
	v event.Verified
	around
	before    store.StateMap
	rejection error // why it is rejected, as far as its auth events tell
	spread    bool  // it was handed to us to deliver to the other servers in the room
}

// checkAuth checks an event against its auth events.
func checkAuth(ev *event.Event, a around) error {
	if len(a.noAuth) > 0 {
		return fmt.Errorf("%w: auth event %s can't be had", ErrForbidden, a.noAuth[0])
	}
	auth := make([]*event.Event, len(a.auth))
	state := eventauth.Map{}
	for i, x := range a.auth {
		if x.Rejected {
			return fmt.Errorf("%w: %w", ErrForbidden, eventauth.RefuseRejected(ev))
		}
		auth[i] = x.Event
		state[x.Tuple()] = x.Event
	}
	if err := eventauth.CheckAuthEvents(ev, auth); err != nil {
		return fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	return nil
}

// stateBefore is the state before an event: resolved from its predecessors, and asked for if they are not all here.
func (e *Engine) stateBefore(ctx context.Context, origin id.ServerName, room *store.Room, ev *event.Event, a around) (store.StateMap, error) {
	var states []store.StateMap
	if len(a.missing) > 0 {
		m, err := e.fetchState(ctx, origin, room, ev.ID)
		if err != nil {
			return m, err
		}
		states = append(states, m)
	}
	return e.stateAfterAll(ctx, room, a.prev, states)
}

// stateAfterAll is the state after events, resolved with other states.
func (e *Engine) stateAfterAll(ctx context.Context, room *store.Room, prev []*store.Event, states []store.StateMap) (store.StateMap, error) {
	var out store.StateMap
	err := e.Store.Glance(ctx, func(tx *store.Tx) error {
		for _, p := range prev {
			m, err := tx.States.Behind(p)
			if err != nil {
				return err
			}
			states = append(states, m)
		}
		var err error
		out, err = e.resolve(ctx, tx, room, states)
		return err
	})
	return out, err
}

// appendReceived authorizes an event against its auth events, the state before it and the current state, and puts it
// where that leads to: into the room, aside as soft-failed, or aside as rejected. Only the last is an error, and the
// second too if the event is to be spread.
func (e *Engine) appendReceived(ctx context.Context, l *live, a arrival) error {
	l.placing.Lock()
	defer l.placing.Unlock()
	// Another server may have handed it in meanwhile.
	here, err := e.lookAround(ctx, l, a.v.Event())
	if err != nil || here.known != nil && !here.known.Outlier() {
		return err
	}
	a.known = here.known
	var refused, softFailure error
	err = e.change(ctx, l.room.ID, func(d *draft) (err error) {
		if refused, softFailure, err = d.judge(ctx, a); err != nil {
			return err
		}
		if a.spread && (refused != nil || softFailure != nil) {
			return nil
		}
		nid, err := e.Store.NextNumber(ctx)
		if err != nil {
			return err
		}
		add := &addition{ev: &store.Event{Event: a.v.Event(), NID: store.EventNID(nid), Room: l.room.NID}, verified: a.v, missing: a.missing}
		if a.known != nil {
			add.ev.NID, add.ev.Known = a.known.NID, true
			add.keepRedacted(a.known)
		}
		add.ev.Rejected, add.ev.SoftFailed = refused != nil, softFailure != nil
		if err := d.stateFor(ctx, add, a.before); err != nil {
			return err
		}
		d.additions = append(d.additions, add)
		if refused != nil || softFailure != nil {
			e.Log.Info("event refused", "room", l.room.ID, "event", add.ev.ID, "rejected", refused, "soft_failure", softFailure)
			add.aside = true
			return nil
		}
		if a.spread {
			add.servers = slices.Clone(d.others)
			if i := slices.Index(add.servers, add.ev.Sender.Server()); i >= 0 {
				add.servers = slices.Delete(add.servers, i, i+1)
			}
		}
		return d.merge(ctx, add)
	})
	if err != nil {
		return err
	}
	if refused == nil && a.spread {
		refused = softFailure
	}
	if refused != nil {
		return fmt.Errorf("%w: %w", ErrForbidden, refused)
	}
	return nil
}

// judge authorizes an arrival: an error besides the verdicts means that there is none. An event that only a state which
// some server told us forbids is not rejected for ever, but left for who can show what came before it.
func (d *draft) judge(ctx context.Context, a arrival) (refused, softFailure, err error) {
	refused = a.rejection
	var told error
	err = d.view(ctx, func(tx *store.Tx) error {
		if refused == nil {
			refused = d.e.authorizeByOwn(tx, d.room, a.around, a.v.Event())
		}
		if refused == nil {
			if refused = authorizeBy(tx, a.v.Event(), a.before); refused != nil && len(a.missing) > 0 {
				told = fmt.Errorf("%w: by the state before it, as told: %w", ErrForbidden, refused)
			}
		}
		if refused == nil {
			softFailure = authorizeBy(tx, a.v.Event(), d.state.Map)
		}
		return nil
	})
	if err = cmp.Or(err, told); err != nil {
		return nil, nil, err
	}
	for _, r := range []error{refused, softFailure} {
		var verdict *eventauth.Refusal
		if r != nil && r != a.foreign && !errors.As(r, &verdict) { //nolint:errorlint // the very error
			return nil, nil, r
		}
	}
	return refused, softFailure, nil
}

// authorizeReceived checks an event by its auth events and by the state before it.
func (e *Engine) authorizeReceived(tx *store.Tx, room *store.Room, a around, ev *event.Event, before store.StateMap) error {
	if err := e.authorizeByOwn(tx, room, a, ev); err != nil {
		return err
	}
	return authorizeBy(tx, ev, before)
}

// authorizeByOwn checks an event by its auth events.
func (e *Engine) authorizeByOwn(tx *store.Tx, room *store.Room, a around, ev *event.Event) error {
	state := eventauth.Map{}
	for _, x := range a.auth {
		state[x.Tuple()] = x.Event
	}
	var create *event.Event
	if room.Version.NoCreateInAuthEvents {
		made, err := tx.Events.Get(createID(room))
		if err != nil {
			return err
		}
		if made != nil {
			create = made.Event
		}
	}
	return eventauth.Authorize(ev, state, create)
}

// createID is the event that a room is named by, in the versions that name rooms so.
func createID(room *store.Room) id.EventID {
	return id.EventID("$" + strings.TrimPrefix(string(room.ID), "!"))
}

// merge makes an accepted event one of the ends of the room and resolves the current state anew.
func (d *draft) merge(ctx context.Context, a *addition) error {
	a.came, a.wake = true, d.local
	if err := d.follow(ctx, a, false); err != nil {
		return err
	}
	return d.handleRedactions(ctx, a)
}
