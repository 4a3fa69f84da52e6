package room

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/peers"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Limits of what one reader who scrolls back makes this server do.
const (
	maxBackfill  = 100              // events fetched at once
	maxBackfrom  = 10               // missing events that are asked for at once
	maxBackfills = 10               // servers that are asked for events
	maxAskState  = 3                // states that each is asked for
	maxAskAuth   = 3                // events whose auth events each is asked for
	maxOlder     = 30 * time.Second // all that together
)

// errNothingOlder says that nobody who was asked has older history, but others may, or the same at another time.
var errNothingOlder = fmt.Errorf("%w: nobody has what comes before", ErrEventNotFound)

// older is a fetch of a room's older history that is under way. All who read the room's past meanwhile share it.
type older struct {
	readers int // guarded by live.mu
	cancel  context.CancelFunc
	done    chan struct{} // closed when what follows is set
	came    int
	err     error
}

// Backfill fetches older history of a room from other servers: at most limit events. It returns how many came; 0 without
// an error if there is no more to be had. It takes no longer than maxOlder.
func (e *Engine) Backfill(ctx context.Context, roomID id.RoomID, limit int) (int, error) {
	if e.Remote == nil {
		return 0, nil
	}
	l, err := e.live(ctx, roomID)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	o := l.older
	if o == nil {
		// It outlives the reader who began it as long as there are others.
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxOlder)
		o = &older{cancel: cancel, done: make(chan struct{})}
		l.older = o
		go func() {
			defer close(o.done)
			defer cancel()
			o.came, o.err = e.fetchOlder(asking, l, limit)
			l.over(o)
		}()
	}
	o.readers++
	l.mu.Unlock()
	select {
	case <-o.done:
		return o.came, o.err
	case <-ctx.Done():
	}
	l.mu.Lock()
	o.readers--
	last := o.readers == 0
	l.mu.Unlock()
	if last {
		l.over(o)
		o.cancel()
		<-o.done
	}
	return 0, ctx.Err()
}

// over lets nobody else wait for a fetch.
func (l *live) over(o *older) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.older == o {
		l.older = nil
	}
}

// fetchOlder asks other servers for what comes before some of the room's gaps.
func (e *Engine) fetchOlder(ctx context.Context, l *live, limit int) (int, error) {
	var missing []store.Missing
	err := e.Store.View(ctx, func(tx *store.Tx) (err error) {
		missing, err = tx.Relations.Missing(l.room.NID, maxBackfrom, time.Now())
		return err
	})
	if err != nil || len(missing) == 0 {
		return 0, err
	}
	servers, err := e.Peers(ctx, l.room.ID)
	if err != nil || len(servers) == 0 {
		return 0, err
	}
	var answered atomic.Bool
	n, err := peers.First(ctx, servers[:min(len(servers), maxBackfills)], func(ctx context.Context, server id.ServerName) (int, error) {
		asked := time.Now()
		n, err := e.backfillFrom(ctx, l, server, missing, limit)
		l.helped(server, asked, err)
		if err != nil && !errors.Is(err, ErrUnreachable) && !fault(err) {
			answered.Store(true)
		}
		return n, err
	})
	// If nobody is reached, this server may be the one that is cut off: that says nothing of what can be had.
	if err == nil || !answered.Load() || errors.Is(ctx.Err(), context.Canceled) {
		return n, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxOlder)
	defer cancel()
	return 0, errors.Join(err, e.Store.Update(ctx, func(tx *store.Tx) error { return tx.Relations.Tried(l.room.NID, named(missing), time.Now()) }))
}

// named are the events that are missing, each once.
func named(missing []store.Missing) (ids []id.EventID) {
	for _, m := range missing {
		if !slices.Contains(ids, m.ID) {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// backfillFrom fetches what comes before some gaps from one server. Error: errNothingOlder.
func (e *Engine) backfillFrom(ctx context.Context, l *live, server id.ServerName, missing []store.Missing, limit int) (int, error) {
	from := named(missing)
	ctx, release := load.WithHold(ctx, string(server))
	defer release()
	raw, err := e.Remote.Backfill(ctx, server, l.room.ID, from, min(max(limit, 10), maxBackfill))
	if err != nil {
		return 0, err
	}
	if len(raw) > maxBackfill {
		raw = raw[:maxBackfill]
	}
	p := &past{e: e, l: l, server: server, missing: missing, budget: &pastBudget{maxAskState, maxAskAuth}}
	verified, left := e.check(ctx, l.room, server, raw) // what is left stays missing
	n, err := p.take(ctx, ancestors(verified, from))
	if n > 0 {
		return n, nil
	}
	if err = cmp.Or(err, passing(left)); err == nil {
		err = fmt.Errorf("%s: %w", server, errNothingOlder)
	}
	return n, err
}

// ancestors are those of some events that others name, or that come before those, newest first.
func ancestors(events []event.Verified, named []id.EventID) []event.Verified {
	wanted := make(map[id.EventID]bool, len(events))
	for _, i := range named {
		wanted[i] = true
	}
	newest := sorted(events, prevEvents)
	slices.Reverse(newest)
	var out []event.Verified
	for _, v := range newest {
		if !wanted[v.Event().ID] {
			continue
		}
		out = append(out, v)
		for _, p := range v.Event().PrevEvents {
			wanted[p] = true
		}
	}
	return out
}

// pastBudget is what may still be asked for.
type pastBudget struct{ states, auth int }

// past is a stretch of a room's past on its way in: events that lie before what is here. The states before them follow
// from the state before the oldest, which only another server can tell, and from the events themselves; if no server
// tells it, from the state before the event that follows the newest (see past.assume).
type past struct {
	e       *Engine
	l       *live
	server  id.ServerName
	missing []store.Missing
	budget  *pastBudget

	events []event.Verified // newest first
	known  map[id.EventID]*store.Event
	placed map[id.EventID]*store.Event // predecessors that have their place already
	keys   map[event.StateKeyTuple]int64

	told    map[id.EventID]store.StateMap // states before events as other servers tell them
	behind  map[id.EventID]store.StateMap // states behind events
	before  map[id.EventID]store.StateMap // states before events
	soft    map[id.EventID]bool           // refused by the state before
	refused tally                         // the same, as it is to be told of
	parent  store.Snapshot                // what the states are written as differences to
	guess   bool                          // the states come from assume
	hidden  int64                         // the key of a visibility that changed meanwhile, and was assumed not to be known before
}

// take puts events into the room's past and returns how many.
func (p *past) take(ctx context.Context, events []event.Verified) (int, error) {
	p.events = events
	if err := p.look(ctx); err != nil || len(p.events) == 0 {
		return 0, err
	}
	for _, v := range slices.Backward(p.events) {
		if ev := v.Event(); p.outside(ev) && p.budget.states > 0 && ev.Type != event.TypeCreate {
			p.budget.states--
			state, _, err := p.e.askState(ctx, p.server, p.l.room, ev.ID)
			if err != nil {
				p.e.Log.Info("a server can't tell a state of the past", "room", p.l.room.ID, "server", p.server, "event", ev.ID, "err", err)
				continue
			}
			p.told[ev.ID] = state
		}
	}
	if err := p.keep(ctx); err != nil {
		return 0, err
	}
	err := p.e.Store.View(ctx, func(tx *store.Tx) error {
		if err := p.findStates(ctx, tx); err != nil || len(p.before) > 0 {
			return err
		}
		if found, err := p.assume(tx); err != nil || !found {
			return err
		}
		p.guess = true
		return p.findStates(ctx, tx)
	})
	p.refused.tell(p.e.Log, "events of the past are refused", "room", p.l.room.ID, "server", p.server)
	if err != nil {
		return 0, err
	}
	if len(p.before) == 0 {
		return 0, fmt.Errorf("%w: nobody tells the state before the events of %s", ErrEventNotFound, p.server)
	}
	return p.write(ctx)
}

// look finds out what is here of the events and their predecessors, and leaves out what has its place or names events of
// other rooms.
func (p *past) look(ctx context.Context) error {
	p.placed, p.told = map[id.EventID]*store.Event{}, map[id.EventID]store.StateMap{}
	var ids []id.EventID
	for _, v := range p.events {
		ids = append(append(append(ids, v.Event().ID), v.Event().PrevEvents...), v.Event().AuthEvents...)
	}
	var arrived []id.EventID
	foreign := map[id.EventID]bool{}
	err := p.e.Store.View(ctx, func(tx *store.Tx) error {
		list, err := tx.Events.ByID(ids...)
		if err != nil {
			return err
		}
		for _, ev := range list {
			switch {
			case ev.Room != p.l.room.NID:
				foreign[ev.ID] = true
			case !ev.Outlier():
				p.placed[ev.ID] = ev
			}
		}
		for _, m := range p.missing {
			child, err := tx.Events.ByNID(m.Child)
			if err == nil && len(child) > 0 {
				p.parent, err = tx.States.Get(child[0].StateBefore)
			}
			if err != nil || p.parent.NID != 0 {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	names := func(ids []id.EventID) bool {
		return slices.ContainsFunc(ids, func(i id.EventID) bool { return foreign[i] })
	}
	p.events = slices.DeleteFunc(p.events, func(v event.Verified) bool {
		ev := v.Event()
		if p.placed[ev.ID] != nil {
			arrived = append(arrived, ev.ID)
		}
		return p.placed[ev.ID] != nil || foreign[ev.ID] || names(ev.PrevEvents) || names(ev.AuthEvents)
	})
	if len(arrived) == 0 {
		return nil
	}
	return p.e.Store.Update(ctx, func(tx *store.Tx) error {
		for _, i := range arrived {
			if err := tx.Relations.Arrived(p.l.room.NID, i); err != nil {
				return err
			}
		}
		return nil
	})
}

// outside says whether something that an event follows is neither here nor on its way in.
func (p *past) outside(ev *event.Event) bool {
	return slices.ContainsFunc(ev.PrevEvents, func(i id.EventID) bool {
		return p.placed[i] == nil && !slices.ContainsFunc(p.events, func(v event.Verified) bool { return v.Event().ID == i })
	})
}

// keep stores the events as outliers, judged by their auth events, so that states can name them.
func (p *past) keep(ctx context.Context) (err error) {
	if p.known, err = p.e.keepOutliers(ctx, p.l.room, p.events); err != nil {
		return err
	}
	again := false
	for _, v := range slices.Backward(p.events) {
		ev := v.Event()
		if p.known[ev.ID] != nil || p.budget.auth == 0 {
			continue
		}
		p.budget.auth--
		if err := p.e.fetchAuth(ctx, p.server, p.l.room, ev, absentFrom(ev.AuthEvents, p.known)); err != nil {
			p.e.Log.Info("what authorizes an event of the past can't be had", "room", p.l.room.ID, "event", ev.ID, "err", err)
			continue
		}
		again = true
	}
	if again {
		if p.known, err = p.e.keepOutliers(ctx, p.l.room, p.events); err != nil {
			return err
		}
	}
	p.events = slices.DeleteFunc(p.events, func(v event.Verified) bool { return p.known[v.Event().ID] == nil })
	var tuples []event.StateKeyTuple
	for _, v := range p.events {
		if v.Event().StateKey != nil {
			tuples = append(tuples, v.Event().Tuple())
		}
	}
	p.keys, err = p.e.Store.StateKeys(ctx, tuples)
	return err
}

func absentFrom(ids []id.EventID, known map[id.EventID]*store.Event) []id.EventID {
	return slices.DeleteFunc(slices.Clone(ids), func(i id.EventID) bool { return known[i] != nil })
}
