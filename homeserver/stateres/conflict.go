package stateres

import "github.com/securecomm/securecomm/homeserver/id"

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

// addAuthDifference adds what is in the auth chain of some set, but not of all. What the agreed state leads
// to is in all, so that the walk from each set's conflicted events ends there: every event is seen once
// from the agreed state, and once per set otherwise.
func (r *resolver) addAuthDifference(full *collection, starts [][]node) {
	var common set
	var agreed []node
	for _, eventID := range r.agreed {
		if n, ok := r.find(eventID); ok {
			agreed = append(agreed, n)
		}
	}
	r.reach(agreed, common.add)

	var seen collection
	var count []int // in how many chains a node is
	for _, start := range starts {
		var chain set
		r.reach(start, func(n node) bool {
			if common.has(n) || !chain.add(n) {
				return false
			}
			seen.add(n)
			for int(n) >= len(count) {
				count = append(count, 0)
			}
			count[n]++
			return true
		})
	}
	for _, n := range seen.list {
		if count[n] < len(starts) {
			full.add(n)
		}
	}
}

// addSubgraph adds what lies on a path of auth events between two conflicted events: what is reached from
// one, and from which another is reached.
func (r *resolver) addSubgraph(full *collection, conflicted []node) {
	var below collection
	r.reach(conflicted, below.add)
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
