package stateres

import (
	"container/heap"

	"github.com/securecomm/securecomm/homeserver/id"
)

// fullConflictedSet is the conflicted state, the auth difference and, for algorithm 2.1, the conflicted
// state subgraph. conflicted are the conflicted events of each state set.
func (r *resolver) fullConflictedSet(conflicted [][]id.EventID, subgraph bool) []node {
	full := &collection{}
	var all []node
	starts := make([][]node, len(conflicted))
	for i, eventIDs := range conflicted {
		starts[i] = r.findAll(eventIDs)
		for _, n := range starts[i] {
			if full.add(n) {
				all = append(all, n)
			}
		}
	}
	r.addAuthDifference(full, starts)
	if subgraph {
		r.addSubgraph(full, all)
	}
	return full.list
}

// collection is a set of nodes that knows their order of arrival.
type collection struct {
	set
	list []node
}

func (c *collection) add(n node) bool {
	fresh := c.set.add(n)
	if fresh {
		c.list = append(c.list, n)
	}
	return fresh
}

// addAuthDifference adds what is in the auth chain of some set, but not of all. The chains of all sets are walked down
// at once, by rank: a node is passed when no other can lead to it any more, and so knows all sets that do. Below nodes
// that all sets lead to there is no difference, so that the walk ends once nothing else is ahead.
func (r *resolver) addAuthDifference(full *collection, starts [][]node) {
	w := &descent{graph: &r.graph, sets: len(starts), leading: make(map[node]*leading)}
	everywhere := w.none()
	for i, start := range starts {
		everywhere.add(node(i))
		var only set
		only.add(node(i))
		for _, n := range start {
			w.lead(n, only)
		}
	}
	for _, eventID := range r.agreed {
		if n, ok := r.find(eventID); ok {
			w.lead(n, everywhere)
		}
	}
	var differing []id.EventID
	for len(w.ahead) > 0 && w.partly > 0 {
		n := heap.Pop(w).(node)
		l := w.leading[n]
		if l.count < w.sets {
			w.partly--
			if !full.has(n) {
				differing = append(differing, r.nodes[n].id)
			}
		}
		for _, a := range r.auth(n) {
			w.lead(a, l.by)
		}
	}
	if len(differing) == 0 {
		return
	}
	leads := r.common.Leads(differing)
	for _, eventID := range differing {
		if n, ok := r.find(eventID); ok && !leads[eventID] {
			full.add(n)
		}
	}
}

// descent is a walk down the auth chains of several state sets. It is a heap of the nodes that lie ahead, the one of the
// greatest rank first.
type descent struct {
	*graph
	sets    int
	leading map[node]*leading
	ahead   []node
	partly  int // how many of those ahead not all sets lead to
}

// leading says which state sets lead to a node.
type leading struct {
	by    set
	count int
}

func (w *descent) none() set { return set{make([]uint64, (w.sets+63)/64)} }

// lead notes that some state sets lead to a node, which lies ahead.
func (w *descent) lead(n node, by set) {
	l := w.leading[n]
	if l == nil {
		l = &leading{by: w.none()}
		w.leading[n] = l
		w.partly++
		heap.Push(w, n)
	}
	if l.count == w.sets {
		return
	}
	if l.count = l.by.addAll(by); l.count == w.sets {
		w.partly--
	}
}

func (w *descent) Len() int           { return len(w.ahead) }
func (w *descent) Less(i, j int) bool { return w.rank(w.ahead[i]) > w.rank(w.ahead[j]) }
func (w *descent) Swap(i, j int)      { w.ahead[i], w.ahead[j] = w.ahead[j], w.ahead[i] }
func (w *descent) Push(x any)         { w.ahead = append(w.ahead, x.(node)) }
func (w *descent) Pop() any {
	last := w.ahead[len(w.ahead)-1]
	w.ahead = w.ahead[:len(w.ahead)-1]
	return last
}

// addSubgraph adds what lies on a path of auth events between two conflicted events: what is reached from
// one, and from which another is reached. Nothing below all of them is.
func (r *resolver) addSubgraph(full *collection, conflicted []node) {
	if len(conflicted) == 0 {
		return
	}
	lowest := r.rank(conflicted[0])
	for _, n := range conflicted {
		lowest = min(lowest, r.rank(n))
	}
	var below collection
	r.reach(conflicted, func(n node) bool { return r.rank(n) >= lowest && below.add(n) })
	citedBy := make(map[node][]node)
	for _, n := range below.list {
		for _, a := range r.auth(n) {
			citedBy[a] = append(citedBy[a], n)
		}
	}
	var above set
	stack := append([]node(nil), conflicted...)
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if above.add(n) {
			full.add(n)
			stack = append(stack, citedBy[n]...)
		}
	}
}
