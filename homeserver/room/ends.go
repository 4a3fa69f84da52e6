package room

import (
	"context"
	"slices"

	"github.com/securecomm/securecomm/homeserver/store"
)

// The ends of a room are its events that none here names as its predecessor (Server-Server API, "forward extremities").
// The current state is the resolution of the states behind all of them, each state once: ends that were forked from one
// event with messages have one in common. An event of ours ties a few ends together. The state before it is what these
// resolve to, since that is what other servers find; the rest stay ends, and go on to have a say in the current state.
//
// Nothing is forgotten: where ends with different states are many, or much differs between them, the states of all but the
// newest are resolved into one that speaks for them in the resolutions to come, as if an event had tied them together,
// until they are named.

const (
	// maxPrev is how many ends one of our events ties together.
	maxPrev = 10
	// maxNear is how many ends stand in the row of a room's head.
	maxNear = 20
	// maxStates is how many different states the further ends may have before they are resolved into one.
	maxStates = 40
	// maxTogether is how many steps it may take to resolve the states of all ends before those of the older ones are
	// resolved into one: what differs counts for each state.
	maxTogether = 10000
	// maxMerged is how many resolutions are remembered for each room.
	maxMerged = 8
)

// maxFurther is how many ends a room has besides those in the row of its head.
var maxFurther = 50000

// endChanges are what is to be written of the ends that the head has no place for.
type endChanges struct {
	fold   store.StateNID // speaks for all that there were; 0 if each speaks for itself
	added  []store.Extremity
	gone   []store.EventNID
	stays  []store.EventNID
	unused []store.StateNID // that perhaps no end needs any longer
}

// left notes that an end no longer needs a state.
func (c *endChanges) left(state store.StateNID) {
	if !slices.Contains(c.unused, state) {
		c.unused = append(c.unused, state)
	}
}

func (c *endChanges) write(tx *store.Tx, room store.RoomNID) error {
	if c.fold != 0 {
		if err := tx.Rooms.FoldEnds(room, c.fold); err != nil {
			return err
		}
	}
	if err := tx.Rooms.AddEnds(room, c.added); err != nil {
		return err
	}
	for _, nid := range c.stays {
		if err := tx.Rooms.StayEnd(room, nid); err != nil {
			return err
		}
	}
	if err := tx.Rooms.DeleteEnds(room, c.gone); err != nil {
		return err
	}
	return tx.States.Unused(c.unused...)
}

// view reads the database as it will be once all that the draft is built on is written, and the draft itself.
func (d *draft) view(ctx context.Context, fn func(*store.Tx) error) error {
	return d.e.Store.Glance(ctx, func(tx *store.Tx) error {
		if d.live != nil {
			for _, q := range d.live.queued {
				q.carry(tx)
			}
		}
		d.carry(tx)
		return fn(tx)
	})
}

func (d *draft) carry(tx *store.Tx) {
	for _, a := range d.additions {
		tx.Carry(a.ev)
	}
	tx.Carry(nil, d.state)
	for _, s := range d.snapshots {
		tx.Carry(nil, s.Snapshot)
	}
}

// endState is what tells the states behind ends apart.
type endState struct {
	state store.StateNID
	key   int64
	event store.EventNID // 0 if it is a message
}

func stateOfEnd(x store.Extremity) endState {
	s := endState{state: x.State, key: x.Key}
	if x.Key != 0 {
		s.event = x.NID
	}
	return s
}

// differing are those of some ends of which each has another state behind it, the first of each.
func differing(ends []store.Extremity) []store.Extremity {
	var out []store.Extremity
	var last endState
	seen := map[endState]bool{}
	for i, x := range ends {
		s := stateOfEnd(x)
		if i == 0 || s != last && !seen[s] {
			seen[s] = true
			out = append(out, x)
		}
		last = s
	}
	return out
}

// standing are the further ends of which each has another state behind it. Who changes the further ends sets apart to nil.
func (d *draft) standing() []store.Extremity {
	if d.apart == nil {
		d.apart = differing(d.further)
	}
	return d.apart
}

// differing are the ends of which each has another state behind it, the newest first and then the oldest of the further ones.
func (d *draft) differing() []store.Extremity {
	ends := slices.Clone(d.head.Extremities)
	slices.Reverse(ends)
	return differing(append(ends, d.standing()...))
}

// behind is the state behind an end.
func behind(tx *store.Tx, x store.Extremity) (store.StateMap, error) {
	m, err := tx.States.Map(x.State)
	if err == nil && x.Key != 0 {
		m = m.Set(x.Key, x.NID)
	}
	return m, err
}

// behindAll is what the states behind ends resolve to.
func (d *draft) behindAll(ctx context.Context, ends []store.Extremity) (store.StateMap, error) {
	states := make([]store.StateMap, len(ends))
	err := d.view(ctx, func(tx *store.Tx) (err error) {
		for i, x := range ends {
			if states[i], err = behind(tx, x); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return store.StateMap{}, err
	}
	states = distinct(states)
	if d.merged == nil {
		d.merged = &merged{}
	}
	d.steps = 0
	return d.merged.resolve(states, func() (out store.StateMap, err error) {
		// What is queued is handed in by itself: it may yet fail, and is not to be remembered.
		err = d.e.Store.Glance(ctx, func(tx *store.Tx) error {
			out, d.steps, err = d.e.resolveMeasured(ctx, tx, d.room, states, d.uncommitted()...)
			return err
		})
		return out, err
	})
}

// uncommitted are the events of the draft, and of those that it is built on.
func (d *draft) uncommitted() (out []*store.Event) {
	if d.live != nil {
		for _, q := range d.live.queued {
			for _, a := range q.additions {
				out = append(out, a.ev)
			}
		}
	}
	for _, a := range d.additions {
		out = append(out, a.ev)
	}
	return out
}

// merged remembers resolutions, since the same states meet again with each message. It is used under the room's lock.
type merged struct{ list []resolution }

type resolution struct {
	states []store.StateMap
	result store.StateMap
}

func (m *merged) resolve(states []store.StateMap, work func() (store.StateMap, error)) (store.StateMap, error) {
	if len(states) < 2 {
		return work()
	}
	for _, r := range m.list {
		if len(r.states) == len(states) && !slices.ContainsFunc(states, func(s store.StateMap) bool { return !slices.ContainsFunc(r.states, s.Equal) }) {
			return r.result, nil
		}
	}
	result, err := work()
	if err == nil {
		if len(m.list) >= maxMerged {
			m.list = slices.Delete(m.list, 0, 1)
		}
		m.list = append(m.list, resolution{states, result})
	}
	return result, err
}

// follow puts an event in the place of the ends that it names, and resolves the current state anew. Of what ends say for
// others too, an event of ours knows, which has tied them.
func (d *draft) follow(ctx context.Context, a *addition, tied bool) error {
	ev := a.ev
	end := store.Extremity{NID: ev.NID, ID: ev.ID, Depth: ev.Depth, State: ev.StateBefore}
	if ev.StateKey != nil {
		key, err := d.e.Store.StateKey(ctx, ev.Tuple())
		if err != nil {
			return err
		}
		end.Key = key
	}
	named := func(x store.Extremity) bool { return slices.Contains(ev.PrevEvents, x.ID) }
	near := slices.DeleteFunc(slices.Clone(d.head.Extremities), named)
	d.leaveOut(func(x store.Extremity) bool { return (tied || !x.Stays) && named(x) }, len(ev.PrevEvents)-(len(d.head.Extremities)-len(near)))
	d.head.Extremities = append(near, end)
	if n := len(d.head.Extremities) - maxNear; n > 0 {
		d.further = append(d.further, d.head.Extremities[:n]...)
		d.ends.added = append(d.ends.added, d.head.Extremities[:n]...)
		d.head.Extremities, d.apart = d.head.Extremities[n:], nil
	}
	if len(d.further) > maxStates {
		if err := d.bound(ctx); err != nil {
			return err
		}
	}
	current, err := d.behindAll(ctx, d.differing())
	if err != nil {
		return err
	}
	if d.steps > maxTogether {
		if err := d.foldOlder(ctx); err != nil {
			return err
		}
	}
	sets, err := d.moveTo(ctx, current)
	if err != nil {
		return err
	}
	for i := range sets {
		if sets[i].Event == ev.NID {
			sets[i].ev = ev
		}
	}
	if err := d.setState(ctx, a, sets); err != nil {
		return err
	}
	return d.noteResolved(ctx, a, end)
}

// noteResolved has the current state written with an addition, unless it is the one behind it.
func (d *draft) noteResolved(ctx context.Context, a *addition, end store.Extremity) error {
	if len(d.head.Extremities)+len(d.further) == 1 {
		return nil
	}
	return d.view(ctx, func(tx *store.Tx) error {
		own, err := behind(tx, end)
		if err == nil && !own.Equal(d.state.Map) {
			a.resolved = d.head.State
		}
		return err
	})
}

// leaveOut takes ends off the further ones, at most so many.
func (d *draft) leaveOut(gone func(store.Extremity) bool, most int) {
	if most <= 0 || len(d.further) == 0 {
		return
	}
	// Most often it is the oldest that are named, which needs no copy of the others.
	first := 0
	for first < len(d.further) && first < most && gone(d.further[first]) {
		first++
	}
	left, kept := d.further[:first], d.further[first:]
	if first < most && slices.ContainsFunc(kept, gone) {
		left = slices.Clip(left)
		kept = slices.DeleteFunc(slices.Clone(kept), func(x store.Extremity) bool {
			if len(left) == most || !gone(x) {
				return false
			}
			left = append(left, x)
			return true
		})
	}
	if len(left) == 0 {
		return
	}
	d.further, d.apart = kept, nil
	for _, x := range left {
		d.ends.gone = append(d.ends.gone, x.NID)
		// Most often others have it too, as all have where one message was followed by many.
		if !slices.ContainsFunc(d.standing(), func(k store.Extremity) bool { return k.State == x.State }) {
			d.ends.left(x.State)
		}
	}
}

// bound keeps the further ends, and the states behind them, few enough.
func (d *draft) bound(ctx context.Context) error {
	if ends := d.standing(); len(ends) > maxStates {
		m, err := d.behindAll(ctx, ends)
		if err == nil {
			err = d.fold(ctx, m)
		}
		if err != nil {
			return err
		}
	}
	if len(d.further) > maxFurther {
		d.dropOldest()
	}
	return nil
}

// dropOldest leaves out one of the oldest ends. Of more ends than states, one has no state of its own: another one goes on
// to say what it says.
func (d *draft) dropOldest() {
	speaks := map[endState]store.Extremity{}
	for _, x := range d.further[:maxStates+1] {
		first, ok := speaks[stateOfEnd(x)]
		if !ok {
			speaks[stateOfEnd(x)] = x
			continue
		}
		if x.Stays {
			first, x = x, first
		}
		if i := slices.IndexFunc(d.further, func(o store.Extremity) bool { return o.NID == first.NID }); !first.Stays {
			d.further = slices.Clone(d.further)
			d.further[i].Stays = true
			d.ends.stays = append(d.ends.stays, first.NID)
		}
		d.leaveOut(func(o store.Extremity) bool { return o.NID == x.NID }, 1)
		return
	}
}

// foldOlder lets one state speak for all ends but the newest, so that the resolutions to come are of few states.
func (d *draft) foldOlder(ctx context.Context) error {
	if len(d.differing()) < 3 {
		return nil
	}
	older := d.head.Extremities[:len(d.head.Extremities)-1]
	d.further = append(slices.Clip(d.further), older...)
	d.ends.added = append(d.ends.added, older...)
	d.head.Extremities, d.apart = slices.Clone(d.head.Extremities[len(older):]), nil
	m, err := d.behindAll(ctx, d.standing())
	if err != nil {
		return err
	}
	return d.fold(ctx, m)
}

// fold lets one state speak for all further ends.
func (d *draft) fold(ctx context.Context, m store.StateMap) error {
	nid, err := d.snapshot(ctx, m)
	if err != nil {
		return err
	}
	folded := func(ends []store.Extremity) []store.Extremity {
		out := make([]store.Extremity, len(ends))
		for i, x := range ends {
			d.ends.left(x.State)
			out[i] = store.Extremity{NID: x.NID, ID: x.ID, Depth: x.Depth, State: nid, Stays: x.Stays}
		}
		return out
	}
	d.further, d.ends.added, d.ends.fold, d.apart = folded(d.further), folded(d.ends.added), nid, nil
	return nil
}

// stateFor gives an addition the number of the state before it, making a new one unless one of the ends has it.
func (d *draft) stateFor(ctx context.Context, a *addition, before store.StateMap) error {
	if before.Equal(d.state.Map) {
		a.ev.StateBefore = d.head.State
		return nil
	}
	err := d.view(ctx, func(tx *store.Tx) error {
		for _, x := range d.differing() {
			m, err := tx.States.Map(x.State)
			if err != nil {
				return err
			}
			if m.Equal(before) {
				a.ev.StateBefore, a.holds = x.State, true
				return nil
			}
		}
		return nil
	})
	if err == nil && !a.holds {
		a.ev.StateBefore, err = d.snapshot(ctx, before)
	}
	return err
}

// snapshot gives a state a number, to be written with the draft.
func (d *draft) snapshot(ctx context.Context, m store.StateMap) (store.StateNID, error) {
	var changes []store.StateChange
	d.state.Map.Diff(m, func(key int64, _, now store.EventNID) {
		changes = append(changes, store.StateChange{Key: key, Event: now})
	})
	nid, err := d.e.Store.NextNumber(ctx)
	if err != nil {
		return 0, err
	}
	snapshot := d.state.Next(store.StateNID(nid), changes)
	d.snapshots = append(d.snapshots, newSnapshot{snapshot, d.state.NID, changes})
	return snapshot.NID, nil
}
