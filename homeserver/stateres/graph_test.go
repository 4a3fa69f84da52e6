package stateres_test

import (
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stateres"
)

// simple is a stateres.Events without places, which follow from the events.
type simple interface {
	Event(id id.EventID) *event.Event
	Rejected(id id.EventID) bool
}

// graphed adds the places.
type graphed struct {
	simple
	places map[id.EventID]stateres.Place
}

func (g graphed) Place(eventID id.EventID) (stateres.Place, bool) {
	if p, ok := g.places[eventID]; ok {
		return p, true
	}
	e := g.Event(eventID)
	if e == nil {
		return stateres.Place{}, false
	}
	p := stateres.Place{Rank: 1, Auth: e.AuthEvents}
	for _, a := range e.AuthEvents {
		above, ok := g.Place(a)
		p.Rank = max(p.Rank, above.Rank+1)
		if ok && p.Levels == "" && g.Event(a).StateKeyIs(event.TypePowerLevels, "") {
			p.Levels = a
		}
	}
	g.places[eventID] = p
	return p, true
}

func (graphed) Expect([]id.EventID) {}

func withPlaces(events simple) graphed { return graphed{events, map[id.EventID]stateres.Place{}} }

// resolveSets resolves whole state sets.
func resolveSets(v *event.Version, sets []stateIDs, events simple) (stateIDs, error) {
	return stateres.Resolve(v, stateres.Nothing{}, sets, withPlaces(events))
}

// shared is the part of state sets that all have in common.
type shared struct {
	state stateIDs
	graphed
}

func (s shared) Get(key event.StateKeyTuple) id.EventID { return s.state[key] }
func (shared) Expect([]event.StateKeyTuple)             {}

func (s shared) Leads(to []id.EventID) map[id.EventID]bool {
	found := map[id.EventID]bool{}
	var walk func(id.EventID)
	walk = func(eventID id.EventID) {
		if !found[eventID] {
			found[eventID] = true
			place, _ := s.Place(eventID)
			for _, a := range place.Auth {
				walk(a)
			}
		}
	}
	for _, eventID := range s.state {
		walk(eventID)
	}
	out := map[id.EventID]bool{}
	for _, eventID := range to {
		out[eventID] = found[eventID]
	}
	return out
}

// apart takes out of state sets what is the same in all; leave says what stays in them nevertheless.
func apart(sets []stateIDs, events graphed, leave func(event.StateKeyTuple) bool) (shared, []stateIDs) {
	common := shared{stateIDs{}, events}
	for key, eventID := range sets[0] {
		same := !leave(key)
		for _, set := range sets[1:] {
			same = same && set[key] == eventID
		}
		if same {
			common.state[key] = eventID
		}
	}
	rest := make([]stateIDs, len(sets))
	for i, set := range sets {
		rest[i] = stateIDs{}
		for key, eventID := range set {
			if common.state[key] == "" {
				rest[i][key] = eventID
			}
		}
	}
	return common, rest
}
