package stateres

import (
	"cmp"
	"container/heap"
	"math"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
)

// resolveV2 is algorithms 2 and 2.1. It leaves the resolved state in r.state and returns the agreed state.
func (r *resolver) resolveV2(sets []map[event.StateKeyTuple]id.EventID) (map[event.StateKeyTuple]id.EventID, error) {
	v21 := r.version.StateRes == event.StateResV21
	agreed, conflicted := split(sets, true)
	r.agreed = agreed
	if !slices.ContainsFunc(conflicted, func(ids []id.EventID) bool { return len(ids) > 0 }) {
		return agreed, nil
	}
	if !v21 {
		r.base = agreed
	}
	if r.version.NoCreateInAuthEvents {
		r.create = r.findCreate(sets)
	}
	full := r.fullConflictedSet(conflicted, v21)
	if err := r.missingError(); err != nil {
		return nil, err
	}
	power, rest := r.powerEvents(full)
	r.applyAllowed(r.sortByPower(power))
	r.applyAllowed(r.sortByMainline(rest))
	return agreed, r.missingError()
}

// findCreate is the m.room.create of the room; every set has it unless someone handed us nonsense.
func (r *resolver) findCreate(sets []map[event.StateKeyTuple]id.EventID) *event.Event {
	for _, set := range sets {
		if eventID, ok := set[event.StateKeyTuple{Type: event.TypeCreate}]; ok {
			if n, ok := r.find(eventID); ok {
				return r.at(n)
			}
		}
	}
	return nil
}

// powerEvents divides the full conflicted set into the power events with what authorizes them, and the rest.
func (r *resolver) powerEvents(full []node) (power, rest []node) {
	var conflicted set
	for _, n := range full {
		conflicted.add(n)
	}
	var picked collection
	for _, n := range full {
		if isPower(r.at(n)) {
			r.reach([]node{n}, func(n node) bool { return conflicted.has(n) && picked.add(n) })
		}
	}
	for _, n := range full {
		if !picked.has(n) {
			rest = append(rest, n)
		}
	}
	return picked.list, rest
}

// isPower reports whether an event may take away someone's ability to do something.
func isPower(e *event.Event) bool {
	switch e.Type {
	case event.TypePowerLevels, event.TypeJoinRules, event.TypeCreate:
		return e.StateKey != nil && *e.StateKey == ""
	case event.TypeMember:
		return e.StateKey != nil && *e.StateKey != string(e.Sender) && (e.Membership() == "leave" || e.Membership() == "ban")
	}
	return false
}

// ranked is an event with its place among events that are equal by topology.
type ranked struct {
	node  node
	event *event.Event
	rank  int64 // lower comes first
}

func compare(a, b ranked) int {
	return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.event.OriginServerTS, b.event.OriginServerTS), cmp.Compare(a.event.ID, b.event.ID))
}

// queue is a heap of events.
type queue []ranked

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return compare(q[i], q[j]) < 0 }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)        { *q = append(*q, x.(ranked)) }
func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

// sortByPower is the reverse topological power ordering, by Kahn's algorithm. Events that authorize each
// other in a circle, which no honest server makes, are left out.
func (r *resolver) sortByPower(power []node) []node {
	var among set
	for _, n := range power {
		among.add(n)
	}
	waits := make(map[node]int, len(power))
	citedBy := make(map[node][]node, len(power))
	var ready queue
	for _, n := range power {
		for _, a := range r.auth(n) {
			if among.has(a) {
				waits[n]++
				citedBy[a] = append(citedBy[a], n)
			}
		}
		if waits[n] == 0 {
			ready = append(ready, r.rankByPower(n))
		}
	}
	heap.Init(&ready)
	sorted := make([]node, 0, len(power))
	for len(ready) > 0 {
		n := heap.Pop(&ready).(ranked).node
		sorted = append(sorted, n)
		for _, next := range citedBy[n] {
			if waits[next]--; waits[next] == 0 {
				heap.Push(&ready, r.rankByPower(next))
			}
		}
	}
	return sorted
}

// rankByPower ranks by the sender's power level in the event's own auth events, the greatest first.
func (r *resolver) rankByPower(n node) ranked {
	e := r.at(n)
	return ranked{node: n, event: e, rank: -r.senderLevel(n, e)}
}

func (r *resolver) senderLevel(n node, e *event.Event) int64 {
	ctx, _ := r.cache.Context(authState{&r.graph, r.auth(n)}, r.create)
	return ctx.UserLevel(e.Sender)
}

// authState is the auth events of one event as a state.
type authState struct {
	*graph
	auth []node
}

// Get implements eventauth.State.
func (s authState) Get(typ, stateKey string) *event.Event {
	for _, n := range s.auth {
		if e := s.at(n); e.StateKeyIs(typ, stateKey) {
			return e
		}
	}
	return nil
}

// sortByMainline is the mainline ordering based on the power levels of the partially resolved state.
func (r *resolver) sortByMainline(rest []node) []node {
	// position is where events stand whose nearest power levels of the mainline are known, counted from its
	// oldest end so that none at all is 0 and comes first.
	position := r.mainline()
	order := make([]ranked, 0, len(rest))
	for _, n := range rest {
		order = append(order, ranked{node: n, event: r.at(n), rank: r.mainlinePosition(n, position)})
	}
	slices.SortFunc(order, compare)
	sorted := make([]node, len(order))
	for i := range order {
		sorted[i] = order[i].node
	}
	return sorted
}

func (r *resolver) mainline() map[node]int64 {
	var line []node
	position := make(map[node]int64)
	p := r.get(event.StateKeyTuple{Type: event.TypePowerLevels})
	if p == nil {
		return position
	}
	for n, ok := r.find(p.ID); ok; n, ok = r.levels(n) {
		if _, circle := position[n]; circle {
			break
		}
		position[n] = math.MaxInt64
		line = append(line, n)
	}
	for i, n := range line {
		position[n] = int64(len(line) - i)
	}
	return position
}

// mainlinePosition walks from power levels to power levels until it meets the mainline, and notes the answer
// for all that it passed.
func (r *resolver) mainlinePosition(n node, position map[node]int64) int64 {
	var passed []node
	at := int64(0)
	for p, ok := r.levels(n); ok; p, ok = r.levels(p) {
		if known, ok := position[p]; ok {
			at = known
			break
		}
		position[p] = 0 // ends a circle
		passed = append(passed, p)
	}
	for _, p := range passed {
		position[p] = at
	}
	return at
}

// applyAllowed is the iterative auth checks algorithm.
func (r *resolver) applyAllowed(sorted []node) {
	for _, n := range sorted {
		if e := r.at(n); e.StateKey != nil && r.allowed(e, r.auth(n)) {
			r.state[e.Tuple()] = n
		}
	}
}
