package clientsync

import (
	"cmp"
	"maps"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// moment is a room at a position of the log.
type moment struct {
	room store.RoomNID
	at   stream.Position
}

// stateAt is the state of a room at a position. All who follow a room ask for the same ones.
func (b *builder) stateAt(room store.RoomNID, p stream.Position) (store.StateMap, error) {
	if m, ok := b.e.states.GetIfPresent(moment{room, p}); ok {
		return m, nil
	}
	m, err := b.tx.States.At(room, p)
	if err == nil {
		b.e.states.Set(moment{room, p}, m)
	}
	return m, err
}

// stateNeeded is what a state section has to be made of.
type stateNeeded struct {
	pieces  map[int64]store.EventNID     // what the client lacks, by the keys of state
	changed map[int64]bool               // of these, what changed since the client was told last: members too, if it loads them lazily
	lazy    bool                         // other members only as far as they are needed
	need    map[id.UserID]bool           // those
	sent    map[id.UserID]store.EventNID // of whom the client has been told before
	value   func(key int64) store.EventNID
	found   []*store.Event // member events shown
}

// roomState writes the state section: what the client lacks of the state at the timeline's start, or at its end.
func (b *builder) roomState(s *section, v *visit, t *timeline, n *stateNeeded) error {
	var events section
	if n != nil {
		if err := b.writeState(&events, n); err != nil {
			return err
		}
	}
	b.remember(v, t, n)
	if !events.empty() || v.fresh {
		s.events(b.stateName(), events)
		v.toldState = true
	}
	return nil
}

// stateAfter says that there is no other state, to who takes none from timelines.
func (b *builder) stateAfter(s *section, v *visit) {
	if b.r.UseStateAfter && !v.toldState {
		s.events(b.stateName(), section{})
	}
}

func (b *builder) stateName() string {
	if b.r.UseStateAfter {
		return cmp.Or(b.r.StateAfter, "state_after")
	}
	return "state"
}

// stateNeeded finds out what state a client lacks; nil if it lacks none. Whoever takes over the pieces, and then, unless
// the state is that after the timeline, the timeline's events in order, has the state of the room, but for what the next
// answer mends.
func (b *builder) stateNeeded(v *visit, t *timeline) (*stateNeeded, error) {
	if v.never || !b.f.Room.State.AllowsRoom(v.roomID) {
		return nil, nil
	}
	n := &stateNeeded{lazy: b.lazy()}
	// Who is put out by an event that ties branches together is not shown it.
	changed := v.fresh || v.left || t.limited || t.hid || len(b.owed[v.room]) > 0 || slices.ContainsFunc(t.events, b.mayChangeState)
	var end store.StateMap
	var err error
	if changed {
		if end, err = b.stateAt(v.room, v.stateTo); err != nil {
			return nil, err
		}
		if !b.r.UseStateAfter {
			if err = b.mendLosers(v, t, end); err != nil {
				return nil, err
			}
		}
	}
	if n.lazy {
		if n.sent = b.device.sent[v.roomID]; v.fresh {
			n.sent = nil
		}
		if err = b.membersNeeded(v, t, n); err != nil {
			return nil, err
		}
	}
	if !changed {
		if len(n.need) == 0 {
			return nil, nil
		}
		if end, err = b.stateKnown(v, t); err != nil {
			return nil, err
		}
	}
	return n, b.compare(v, t, n, end, changed)
}

// mayChangeState says whether a client cannot know the state behind an event by itself: it takes no state from the
// timeline, or the event moves the state by more than it sets.
func (b *builder) mayChangeState(ev *store.Event) bool {
	return b.r.UseStateAfter && ev.StateKey != nil || b.ties(ev)
}

// ties says whether an event may tie branches of the room together, or begin another one: then the room's state is resolved
// anew, and may change though the event is no state event, or in more than it sets.
func (b *builder) ties(ev *store.Event) bool {
	return ev.Sender.Server() != b.e.Server || len(ev.PrevEvents) > 1
}

// stateKnown is the state that a visit ends with where nothing has changed but by the events of the timeline.
func (b *builder) stateKnown(v *visit, t *timeline) (store.StateMap, error) {
	if len(t.events) > 0 {
		return b.tx.States.Map(t.events[0].StateBefore)
	}
	return b.stateAt(v.room, v.stateTo)
}

// mendLosers looks for the state events in a timeline that have set, by its end, what another event has that is no part
// of it: whoever took over the timeline would keep them. One that has lost to an event from before it is shown, and the next
// answer tells what is so instead. Behind one that was followed by what is not shown, the timeline begins.
func (b *builder) mendLosers(v *visit, t *timeline, end store.StateMap) error {
	later := map[event.StateKeyTuple]bool{}
	for i, ev := range slices.Backward(t.events) {
		if ev.StateKey == nil || ev.Position > v.stateTo || ev.Outlier() || later[ev.Tuple()] {
			continue
		}
		later[ev.Tuple()] = true
		set, err := b.tx.States.Event(end, ev.Tuple())
		if err != nil {
			return err
		}
		if set != nil && (set.NID == ev.NID || !b.stateAllows(set)) {
			continue
		}
		if set != nil && set.Position < ev.Position && !v.left && len(b.next.Owed) < stream.MaxOwed {
			b.next.Owed = append(b.next.Owed, int64(ev.NID))
			continue
		}
		t.events, t.limited, t.prev = t.events[i+1:], true, ev.Position
		if len(t.events) > 0 {
			t.prev = t.events[0].Position - 1
		}
		return nil
	}
	return nil
}

// findOwed finds the pieces of state that the answer before owed the client.
func (b *builder) findOwed() error {
	if b.r.Since == nil || len(b.r.Since.Owed) == 0 {
		return nil
	}
	nids := make([]store.EventNID, len(b.r.Since.Owed))
	for i, n := range b.r.Since.Owed {
		nids[i] = store.EventNID(n)
	}
	list, err := b.tx.Events.ByNID(nids...)
	if err != nil {
		return err
	}
	b.owed = map[store.RoomNID][]event.StateKeyTuple{}
	for _, ev := range list {
		if ev.StateKey != nil && b.p.joined(ev.RoomID) {
			b.owed[ev.Room] = append(b.owed[ev.Room], ev.Tuple())
			b.w.room(ev.RoomID)
		}
	}
	return nil
}

// compare fills in what the client lacks. What the timeline sets is told as it was before it.
func (b *builder) compare(v *visit, t *timeline, n *stateNeeded, end store.StateMap, changed bool) error {
	touched := map[int64]bool{}
	start := end
	if len(t.events) > 0 && !b.r.UseStateAfter {
		var err error
		if start, err = b.tx.States.Map(t.events[0].StateBefore); err != nil {
			return err
		}
		for _, ev := range t.events {
			if ev.StateKey == nil {
				continue
			}
			key, err := b.tx.States.FindKey(ev.Tuple())
			if err != nil {
				return err
			}
			touched[key] = true
		}
	}
	n.value = func(key int64) store.EventNID {
		if touched[key] {
			return start.Get(key)
		}
		return end.Get(key)
	}
	n.pieces, n.changed = map[int64]store.EventNID{}, map[int64]bool{}
	if !changed {
		return nil
	}
	if v.fresh {
		for key := range end.All {
			n.pieces[key] = n.value(key)
		}
	}
	from, known, err := b.knewUntil(v)
	if err != nil || !known {
		return err
	}
	before, err := b.stateAt(v.room, from)
	if err != nil {
		return err
	}
	note := func(key int64) {
		if now := n.value(key); now != before.Get(key) {
			n.pieces[key], n.changed[key] = now, true
		}
	}
	for _, owed := range b.owed[v.room] {
		key, err := b.tx.States.FindKey(owed)
		if err != nil {
			return err
		}
		if now := n.value(key); now != 0 && !touched[key] {
			n.pieces[key], n.changed[key] = now, true
		}
	}
	before.Diff(end, func(key int64, _, _ store.EventNID) { note(key) })
	for key := range touched {
		note(key)
	}
	return nil
}

// knewUntil is up to where the client knows the room: where its last answer was, or where the user had left by then.
func (b *builder) knewUntil(v *visit) (until stream.Position, known bool, err error) {
	if !v.fresh {
		return v.from, true, nil
	}
	if b.initial {
		return 0, false, nil
	}
	if err := b.loadSpans(v); err != nil {
		return 0, false, err
	}
	for _, c := range v.spans.list {
		switch {
		case c.Position > b.since:
		case c.Membership == "join":
			until, known = b.since, true
		case c.Former == "join":
			until = c.Position
		}
	}
	return until, known, nil
}

// writeState writes the events of a state section.
func (b *builder) writeState(s *section, n *stateNeeded) error {
	keys := slices.Collect(maps.Keys(n.pieces))
	tuples, err := b.tx.States.Tuples(keys)
	if err != nil {
		return err
	}
	var wanted []store.EventNID
	for _, key := range keys {
		if t := tuples[key]; n.lazy && t.Type == event.TypeMember {
			user := id.UserID(t.StateKey)
			if _, told := n.sent[user]; !told && !n.need[user] && !n.changed[key] {
				continue
			}
			delete(n.need, user)
		}
		if nid := n.pieces[key]; nid != 0 {
			wanted = append(wanted, nid)
		}
	}
	// Members that have not changed, but of whom the client has not been told.
	for user := range n.need {
		key, err := b.tx.States.FindKey(event.StateKeyTuple{Type: event.TypeMember, StateKey: string(user)})
		if err != nil {
			return err
		}
		if nid := n.value(key); key != 0 && nid != 0 {
			wanted = append(wanted, nid)
		}
	}
	slices.Sort(wanted)
	return b.writeEvents(s, n, wanted)
}

// stateAllows says whether the filter of state lets an event through.
func (b *builder) stateAllows(ev *store.Event) bool {
	f := &b.f.Room.State
	return f.Allows(ev.Type, ev.Sender) && f.AllowsContent(ev.Content)
}
