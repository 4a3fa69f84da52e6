package stateres_test

import (
	"cmp"
	"maps"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/eventauth/roomtest"
	"github.com/securecomm/securecomm/homeserver/id"
)

type (
	stateIDs = map[event.StateKeyTuple]id.EventID
	idSet    = map[id.EventID]bool
)

// reference is algorithms 2 and 2.1 as the specification defines them, sentence by sentence, with no thought
// for speed.
type reference struct {
	room   *roomtest.Room
	v21    bool
	chains map[id.EventID]idSet // remembered
}

func (r reference) resolve(sets []stateIDs) stateIDs {
	unconflicted, conflicted := stateIDs{}, idSet{}
	for _, set := range sets {
		for key, eventID := range set {
			if slices.ContainsFunc(sets, func(other stateIDs) bool { return other[key] != eventID }) {
				conflicted[eventID] = true
			} else {
				unconflicted[key] = eventID
			}
		}
	}
	full := idSet{}
	for eventID := range conflicted {
		full[eventID] = true
	}
	for eventID := range r.authDifference(sets) {
		full[eventID] = true
	}
	if r.v21 {
		for eventID := range r.subgraph(conflicted) {
			full[eventID] = true
		}
	}
	power := idSet{}
	for eventID := range full {
		if isPowerEvent(r.room.Event(eventID)) {
			r.addWithChain(eventID, full, power)
		}
	}
	state := stateIDs{}
	if !r.v21 {
		for key, eventID := range unconflicted {
			state[key] = eventID
		}
	}
	for _, eventID := range r.powerOrder(power) {
		r.apply(state, eventID)
	}
	var rest []id.EventID
	for eventID := range full {
		if !power[eventID] {
			rest = append(rest, eventID)
		}
	}
	mainline := r.levelsFrom(state[event.StateKeyTuple{Type: event.TypePowerLevels}])
	slices.SortFunc(rest, func(x, y id.EventID) int {
		return cmp.Or(-cmp.Compare(r.position(x, mainline), r.position(y, mainline)), r.byTime(x, y))
	})
	for _, eventID := range rest {
		r.apply(state, eventID)
	}
	for key, eventID := range unconflicted {
		state[key] = eventID
	}
	return state
}

func isPowerEvent(e *event.Event) bool {
	return e.StateKeyIs(event.TypePowerLevels, "") || e.StateKeyIs(event.TypeJoinRules, "") ||
		e.Type == event.TypeMember && (e.Membership() == "leave" || e.Membership() == "ban") && string(e.Sender) != *e.StateKey
}

// chain is the event's auth chain and the event.
func (r reference) chain(eventID id.EventID) idSet {
	if chain, ok := r.chains[eventID]; ok {
		return chain
	}
	chain := idSet{eventID: true}
	for _, auth := range r.room.Event(eventID).AuthEvents {
		maps.Copy(chain, r.chain(auth))
	}
	r.chains[eventID] = chain
	return chain
}

func (r reference) authDifference(sets []stateIDs) idSet {
	var chains []idSet
	difference := idSet{}
	for _, set := range sets {
		chain := idSet{}
		for _, eventID := range set {
			maps.Copy(chain, r.chain(eventID))
		}
		chains = append(chains, chain)
	}
	for _, chain := range chains {
		for eventID := range chain {
			if slices.ContainsFunc(chains, func(other idSet) bool { return !other[eventID] }) {
				difference[eventID] = true
			}
		}
	}
	return difference
}

func (r reference) subgraph(conflicted idSet) idSet {
	graph := idSet{}
	for _, e := range r.room.All {
		leads, led := false, false
		for eventID := range conflicted {
			leads = leads || r.chain(e.ID)[eventID]
			led = led || r.chain(eventID)[e.ID]
		}
		if leads && led {
			graph[e.ID] = true
		}
	}
	return graph
}

func (r reference) addWithChain(eventID id.EventID, full, into idSet) {
	if !full[eventID] || into[eventID] {
		return
	}
	into[eventID] = true
	for _, auth := range r.room.Event(eventID).AuthEvents {
		r.addWithChain(auth, full, into)
	}
}

func (r reference) powerOrder(events idSet) []id.EventID {
	var sorted []id.EventID
	events = maps.Clone(events)
	for len(events) > 0 {
		var candidates []id.EventID
		for eventID := range events {
			if !slices.ContainsFunc(r.room.Event(eventID).AuthEvents, func(a id.EventID) bool { return events[a] }) {
				candidates = append(candidates, eventID)
			}
		}
		first := slices.MinFunc(candidates, func(x, y id.EventID) int {
			return cmp.Or(-cmp.Compare(r.senderLevel(x), r.senderLevel(y)), r.byTime(x, y))
		})
		sorted = append(sorted, first)
		delete(events, first)
	}
	return sorted
}

func (r reference) byTime(x, y id.EventID) int {
	return cmp.Or(cmp.Compare(r.room.Event(x).OriginServerTS, r.room.Event(y).OriginServerTS), cmp.Compare(x, y))
}

func (r reference) authState(eventID id.EventID) eventauth.Map {
	state := eventauth.Map{}
	for _, auth := range r.room.Event(eventID).AuthEvents {
		state[r.room.Event(auth).Tuple()] = r.room.Event(auth)
	}
	return state
}

func (r reference) senderLevel(eventID id.EventID) int64 {
	e := r.room.Event(eventID)
	state := r.authState(eventID)
	if r.v21 {
		return eventauth.NewContext(state, r.room.Create).UserLevel(e.Sender)
	}
	return eventauth.NewContext(state, nil).UserLevel(e.Sender)
}

// levelsFrom are power levels, those that authorize them, and so on.
func (r reference) levelsFrom(eventID id.EventID) []id.EventID {
	var line []id.EventID
	for eventID != "" {
		line = append(line, eventID)
		eventID = r.levelsOf(eventID)
	}
	return line
}

func (r reference) levelsOf(eventID id.EventID) id.EventID {
	if levels := r.authState(eventID).Get(event.TypePowerLevels, ""); levels != nil {
		return levels.ID
	}
	return ""
}

func (r reference) position(eventID id.EventID, mainline []id.EventID) int {
	for _, levels := range r.levelsFrom(r.levelsOf(eventID)) {
		if i := slices.Index(mainline, levels); i >= 0 {
			return i
		}
	}
	return len(mainline)
}

func (r reference) apply(state stateIDs, eventID id.EventID) {
	e := r.room.Event(eventID)
	against := r.authState(eventID)
	for key, other := range state {
		against[key] = r.room.Event(other)
	}
	if eventauth.Authorize(e, against, r.room.Create) == nil {
		state[e.Tuple()] = eventID
	}
}
