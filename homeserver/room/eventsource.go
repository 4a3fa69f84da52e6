package room

import (
	"cmp"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stateres"
	"github.com/securecomm/securecomm/homeserver/store"
)

// eventSource reads events for state resolution as it asks for them. It holds no reader of the database while it does not
// read, and keeps of large events only the outline, since there may be very many.
type eventSource struct {
	tx     *store.Tx
	graph  *authGraph // locked
	events map[id.EventID]*store.Event
	byNID  map[store.EventNID]*store.Event
	fresh  map[id.EventID]bool // not in the database yet
	loaded int                 // how many events were read
	effort func(n int) error   // is told of the work that comes; nil if nobody wants to know
	err    error
}

const (
	// maxKept is the size in bytes of the events that are kept whole.
	maxKept = 2 << 10
	// readAtOnce is how many events are read at a time.
	readAtOnce = 200
)

func newSource(tx *store.Tx, g *authGraph, fresh []*store.Event) *eventSource {
	s := &eventSource{tx: tx, graph: g, events: map[id.EventID]*store.Event{}, byNID: map[store.EventNID]*store.Event{}, fresh: map[id.EventID]bool{}}
	for _, ev := range fresh {
		s.events[ev.ID], s.byNID[ev.NID], s.fresh[ev.ID] = ev, ev, true
	}
	return s
}

// work tells of work that comes.
func (s *eventSource) work(n int) {
	if s.effort != nil && s.err == nil {
		s.err = s.effort(n)
	}
}

// note keeps the first error.
func (s *eventSource) note(err error) { s.err = cmp.Or(s.err, err) }

// outline is what is kept of a stored event.
func outline(ev *store.Event) *store.Event {
	if len(ev.JSON) <= maxKept {
		return ev
	}
	return bare(ev)
}

// bare is a stored event without its contents.
func bare(ev *store.Event) *store.Event {
	return &store.Event{Event: ev.Outline(), NID: ev.NID, Room: ev.Room, Position: ev.Position, StateBefore: ev.StateBefore, Rejected: ev.Rejected, SoftFailed: ev.SoftFailed}
}

// read reads events a few at a time and keeps their outlines.
func read[K comparable](s *eventSource, by func(...K) ([]*store.Event, error), keys []K) (out []*store.Event, err error) {
	for some := range slices.Chunk(keys, readAtOnce) {
		s.work(len(some))
		if s.err != nil {
			return nil, s.err
		}
		list, err := by(some...)
		s.tx.Rest()
		if err != nil {
			return nil, err
		}
		for _, ev := range list {
			out = append(out, outline(ev))
		}
	}
	s.loaded += len(out)
	return out, nil
}

func (s *eventSource) readByID(ids []id.EventID) ([]*store.Event, error) {
	return read(s, s.tx.Events.ByID, ids)
}

func (s *eventSource) readByNID(nids []store.EventNID) ([]*store.Event, error) {
	return read(s, s.tx.Events.ByNID, nids)
}

func (s *eventSource) keep(list []*store.Event, err error) {
	s.note(err)
	for _, ev := range list {
		s.events[ev.ID], s.byNID[ev.NID] = ev, ev
	}
}

// readNIDs reads events by their numbers, those that were not read before.
func (s *eventSource) readNIDs(nids []store.EventNID) {
	var missing []store.EventNID
	for _, nid := range nids {
		if _, ok := s.byNID[nid]; !ok {
			s.byNID[nid] = nil
			missing = append(missing, nid)
		}
	}
	s.keep(s.readByNID(missing))
}

// sets are some pieces of states by names, and the numbers of the pieces.
func (s *eventSource) sets(states []store.StateMap, keys map[int64]bool) ([]map[event.StateKeyTuple]id.EventID, map[event.StateKeyTuple]int64, error) {
	list := make([]int64, 0, len(keys))
	var nids []store.EventNID
	for key := range keys {
		list = append(list, key)
		for _, m := range states {
			if nid := m.Get(key); nid != 0 {
				nids = append(nids, nid)
			}
		}
	}
	s.work(len(nids))
	tuples, err := s.tx.States.Tuples(list)
	s.tx.Rest()
	if err != nil {
		return nil, nil, err
	}
	s.readNIDs(nids)
	var events []*store.Event
	numbers := make(map[event.StateKeyTuple]int64, len(keys))
	sets := make([]map[event.StateKeyTuple]id.EventID, len(states))
	for i, m := range states {
		sets[i] = make(map[event.StateKeyTuple]id.EventID, len(keys))
		for _, key := range list {
			numbers[tuples[key]] = key
			if ev := s.byNID[m.Get(key)]; ev != nil {
				sets[i][tuples[key]] = ev.ID
				if !s.fresh[ev.ID] {
					events = append(events, ev)
				}
			}
		}
	}
	return sets, numbers, cmp.Or(s.err, s.graph.add(s, events))
}

func (s *eventSource) find(eventID id.EventID) *store.Event {
	if ev, ok := s.events[eventID]; ok {
		return ev
	}
	s.Expect([]id.EventID{eventID})
	return s.events[eventID]
}

// Expect reads events that are asked for next.
func (s *eventSource) Expect(ids []id.EventID) {
	var missing []id.EventID
	for _, i := range ids {
		if _, ok := s.events[i]; !ok {
			s.events[i] = nil
			missing = append(missing, i)
		}
	}
	s.keep(s.readByID(missing))
}

// Place is where an event stands among those that authorize others.
func (s *eventSource) Place(eventID id.EventID) (stateres.Place, bool) {
	if p, ok := s.graph.stands(eventID); ok {
		return p, true
	}
	ev := s.find(eventID)
	if ev == nil {
		return stateres.Place{}, false
	}
	if !s.fresh[eventID] {
		s.note(s.graph.add(s, []*store.Event{ev}))
		return s.graph.stands(eventID)
	}
	p := stateres.Place{Rank: 1, Auth: ev.AuthEvents}
	for _, a := range ev.AuthEvents {
		above, ok := s.Place(a)
		p.Rank = max(p.Rank, above.Rank+1)
		if auth := s.find(a); ok && p.Levels == "" && auth != nil && auth.StateKeyIs(event.TypePowerLevels, "") {
			p.Levels = a
		}
	}
	return p, true
}

// Event is nil if the event is missing.
func (s *eventSource) Event(eventID id.EventID) *event.Event {
	ev := s.find(eventID)
	if ev == nil {
		return nil
	}
	s.work(1)
	if ev.JSON != nil || s.err != nil {
		return ev.Event
	}
	whole, err := s.tx.Events.Get(eventID)
	s.tx.Rest()
	if err != nil || whole == nil {
		s.note(err)
		return ev.Event
	}
	return whole.Event
}

// Rejected reports whether the event was rejected when it was received.
func (s *eventSource) Rejected(eventID id.EventID) bool {
	ev := s.find(eventID)
	return ev != nil && ev.Rejected
}

// common is what all states that are resolved have in common.
type common struct {
	source *eventSource
	state  store.StateMap
	apart  map[int64]bool // the rest
}

func (c *common) nid(t event.StateKeyTuple) store.EventNID {
	key, err := c.source.tx.States.FindKey(t)
	c.source.tx.Rest()
	c.source.note(err)
	if key == 0 || c.apart[key] {
		return 0
	}
	return c.state.Get(key)
}

// Get is the event that sets a piece of the state.
func (c *common) Get(t event.StateKeyTuple) id.EventID {
	nid := c.nid(t)
	if nid == 0 {
		return ""
	}
	c.source.readNIDs([]store.EventNID{nid})
	if ev := c.source.byNID[nid]; ev != nil {
		return ev.ID
	}
	return ""
}

// Expect reads pieces that are asked for next.
func (c *common) Expect(tuples []event.StateKeyTuple) {
	var nids []store.EventNID
	for _, t := range tuples {
		if nid := c.nid(t); nid != 0 {
			nids = append(nids, nid)
		}
	}
	c.source.readNIDs(nids)
}

// Leads says which of some events are in the state or authorize something of it.
func (c *common) Leads(to []id.EventID) map[id.EventID]bool {
	g := c.source.graph
	if err := g.cover(c.source, c.state); err != nil {
		c.source.note(err)
		return nil
	}
	return g.leads(to, func(key int64, nid store.EventNID) bool { return !c.apart[key] && c.state.Get(key) == nid })
}
