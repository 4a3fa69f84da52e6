package stateres

import (
	"fmt"
	"maps"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
)

// Events is where the events come from: those of the state sets and of their auth chains.
type Events interface {
	// Place is where an event stands among those that authorize others; false if the event is missing.
	Place(id id.EventID) (Place, bool)
	// Event is nil if the event is missing.
	Event(id id.EventID) *event.Event
	// Rejected reports whether the event was rejected when it was received.
	Rejected(id id.EventID) bool
	// Expect says which events are asked for next, so that they can be read at once.
	Expect(ids []id.EventID)
}

// Place is where an event stands among those that authorize others. It never changes.
type Place struct {
	Rank   int64 // greater than that of each of its auth events
	Auth   []id.EventID
	Levels id.EventID // the m.room.power_levels among these; may be empty
}

// Common is the part of a room's state that all state sets have in common, as far as it is not among them.
type Common interface {
	// Get is the event that sets a piece of that part; empty if there is none.
	Get(key event.StateKeyTuple) id.EventID
	// Expect says which pieces are asked for next, so that they can be read at once.
	Expect(keys []event.StateKeyTuple)
	// Leads says which of some events are in that part or in its auth chain.
	Leads(to []id.EventID) map[id.EventID]bool
}

// Nothing is a Common that is empty.
type Nothing struct{}

// Get returns nothing.
func (Nothing) Get(event.StateKeyTuple) id.EventID { return "" }

// Expect does nothing.
func (Nothing) Expect([]event.StateKeyTuple) {}

// Leads returns nothing.
func (Nothing) Leads([]id.EventID) map[id.EventID]bool { return nil }

// MissingError names events that were needed and not at hand. The caller may fetch them and try again.
type MissingError struct{ IDs []id.EventID }

// Error names the first of them.
func (m *MissingError) Error() string {
	return fmt.Sprintf("resolve state: %d events are missing, such as %s", len(m.IDs), m.IDs[0])
}

// Resolve is the resolution of state sets of one room. What all have in common may be left out of them and is left out
// of the answer then, so that the work depends on what differs alone. The sets are not changed, the answer is the
// caller's own. The only error is *MissingError.
func Resolve(v *event.Version, common Common, sets []map[event.StateKeyTuple]id.EventID, events Events) (map[event.StateKeyTuple]id.EventID, error) {
	switch len(sets) {
	case 0:
		return map[event.StateKeyTuple]id.EventID{}, nil
	case 1:
		return maps.Clone(sets[0]), nil
	}
	r := &resolver{version: v, common: common, graph: newGraph(events), state: make(map[event.StateKeyTuple]node)}
	var err error
	if v.StateRes == event.StateResV1 {
		r.agreed, err = r.resolveV1(sets)
	} else {
		r.agreed, err = r.resolveV2(sets)
	}
	if err != nil {
		return nil, err
	}
	for key, n := range r.state {
		if _, ok := r.agreed[key]; !ok && common.Get(key) == "" {
			r.agreed[key] = r.nodes[n].id
		}
	}
	return r.agreed, nil
}

// resolver is the work on one resolution.
type resolver struct {
	version *event.Version
	common  Common
	graph
	cache  eventauth.Cache
	create *event.Event // only in room versions that don't list it among auth events

	agreed map[event.StateKeyTuple]id.EventID // what is not in conflict
	based  bool                               // the state began with what is agreed and common, not with nothing
	state  map[event.StateKeyTuple]node       // what was resolved so far, on top of base
}

// get is the event of the partially resolved state; nil if there is none.
func (r *resolver) get(key event.StateKeyTuple) *event.Event {
	if n, ok := r.state[key]; ok {
		return r.at(n)
	}
	if !r.based {
		return nil
	}
	eventID, ok := r.agreed[key]
	if !ok {
		eventID = r.common.Get(key)
	}
	if eventID == "" {
		return nil
	}
	if n, ok := r.find(eventID); ok {
		return r.at(n)
	}
	return nil
}

// expect reads what some events are authorized by in the state that the resolution begins with.
func (r *resolver) expect(nodes []node) {
	if !r.based {
		return
	}
	wanted := map[event.StateKeyTuple]bool{}
	var keys []event.StateKeyTuple
	for _, n := range nodes {
		e := r.at(n)
		for _, key := range eventauth.AuthEventsNeeded(r.version, e.Type, e.StateKey, e.Sender, e.Content) {
			if _, ok := r.agreed[key]; !ok && !wanted[key] {
				wanted[key] = true
				keys = append(keys, key)
			}
		}
	}
	r.common.Expect(keys)
}

// view is the state that an event is authorized against: the partially resolved one, and for want of that
// the event's own auth events.
type view struct {
	*resolver
	auth []node // nil where auth events are not to be used
}

// Get implements eventauth.State.
func (s view) Get(typ, stateKey string) *event.Event {
	if e := s.get(event.StateKeyTuple{Type: typ, StateKey: stateKey}); e != nil {
		return e
	}
	for _, n := range s.auth {
		if e := s.outline(n); e != nil && e.StateKeyIs(typ, stateKey) && !s.events.Rejected(e.ID) {
			return s.at(n)
		}
	}
	return nil
}

func (r *resolver) allowed(e *event.Event, auth []node) bool {
	state := view{r, auth}
	ctx, _ := r.cache.Context(state, r.create)
	return ctx.Authorize(e, state) == nil
}

// split divides state sets into what they agree upon and, per set, the rest. strict is the notion of
// algorithm 2, by which sets only agree upon what all of them have; otherwise they disagree only where
// they have different events.
func split(sets []map[event.StateKeyTuple]id.EventID, strict bool) (agreed map[event.StateKeyTuple]id.EventID, rest [][]id.EventID) {
	agreed = make(map[event.StateKeyTuple]id.EventID, len(sets[0]))
	disputed := make(map[event.StateKeyTuple]bool)
	for i, set := range sets {
		for key, eventID := range set {
			if _, ok := agreed[key]; ok || disputed[key] {
				continue // an earlier set has it and was compared with this one
			}
			if agree(sets[i+1:], key, eventID, strict) && (i == 0 || !strict) {
				agreed[key] = eventID
			} else {
				disputed[key] = true
			}
		}
	}
	rest = make([][]id.EventID, len(sets))
	for key := range disputed {
		for i, set := range sets {
			if eventID, ok := set[key]; ok {
				rest[i] = append(rest[i], eventID)
			}
		}
	}
	return agreed, rest
}

func agree(sets []map[event.StateKeyTuple]id.EventID, key event.StateKeyTuple, eventID id.EventID, strict bool) bool {
	for _, set := range sets {
		if other, ok := set[key]; ok && other != eventID || !ok && strict {
			return false
		}
	}
	return true
}
