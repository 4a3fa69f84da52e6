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
	r.based = !v21
	if r.version.NoCreateInAuthEvents {
		r.create = r.findCreate(sets)
	}
	full := r.fullConflictedSet(conflicted, v21)
	if !r.read(full) || len(r.missing) > 0 {
		return nil, r.missingError()
	}
	r.expect(full)
	power, rest := r.powerEvents(full)
	r.applyAllowed(r.sortByPower(power))
	r.applyAllowed(r.sortByMainline(rest))
	return agreed, r.missingError()
}

// findCreate is the m.room.create of the room; every set has it unless someone handed us nonsense.
func (r *resolver) findCreate(sets []map[event.StateKeyTuple]id.EventID) *event.Event {
	key := event.StateKeyTuple{Type: event.TypeCreate}
	eventID := r.common.Get(key)
	for _, set := range sets {
		if eventID == "" {
			eventID = set[key]
		}
	}
	if eventID == "" {
		return nil
	}
	if n, ok := r.find(eventID); ok {
		return r.at(n)
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
		if isPower(r.outline(n)) {
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
	event *event.Event // its outline
	rank  int64        // lower comes first
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
	e := r.outline(n)
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
		if e := s.outline(n); e != nil && e.StateKeyIs(typ, stateKey) {
			return s.at(n)
		}
	}
	return nil
}

// sortByMainline is the mainline ordering based on the power levels of the partially resolved state.
func (r *resolver) sortByMainline(rest []node) []node {
	line := &mainline{graph: &r.graph, position: make(map[node]int64)}
	if p := r.get(event.StateKeyTuple{Type: event.TypePowerLevels}); p != nil {
		line.next, line.more = r.find(p.ID)
	}
	order := make([]ranked, 0, len(rest))
	for _, n := range rest {
		order = append(order, ranked{node: n, event: r.outline(n), rank: line.of(n)})
	}
	slices.SortFunc(order, compare)
	sorted := make([]node, len(order))
	for i := range order {
		sorted[i] = order[i].node
	}
	return sorted
}

// mainline is the line of power levels that leads from those of the partially resolved state into the past. It is
// followed only as far as somebody asks.
type mainline struct {
	*graph
	// position is where events stand whose nearest power levels of the line are known: the older the lower.
	position map[node]int64
	next     node // what the line goes on with, if more
	more     bool
	length   int64
	last     int64 // the rank of the last one followed
}

// offLine is the position of events from which no power levels of the mainline are reached: they come first.
const offLine = math.MinInt64

// stands says where power levels stand on the mainline; false if they are not on it. Ranks fall along the line.
func (m *mainline) stands(p node) (int64, bool) {
	for m.more && m.rank(m.next) >= m.rank(p) {
		m.length++
		m.position[m.next], m.last = -m.length, m.rank(m.next)
		m.next, m.more = m.levels(m.next)
	}
	at, ok := m.position[p]
	return at, ok
}

// of walks from power levels to power levels until it meets the mainline, and notes the answer for all that it passed.
func (m *mainline) of(n node) int64 {
	var passed []node
	at := int64(offLine)
	for p, ok := m.levels(n); ok; p, ok = m.levels(p) {
		if known, ok := m.stands(p); ok {
			at = known
			break
		}
		if !m.more && (m.length == 0 || m.rank(p) < m.last) {
			break // behind the line's end
		}
		passed = append(passed, p)
	}
	for _, p := range passed {
		m.position[p] = at
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
