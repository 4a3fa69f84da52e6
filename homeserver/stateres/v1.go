package stateres

import (
	"bytes"
	"cmp"
	"crypto/sha1" //nolint:gosec // the specification asks for it, as an arbitrary order
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
)

// resolveV1 is the algorithm of room version 1. It leaves the resolved state in r.state and returns the
// agreed state.
func (r *resolver) resolveV1(sets []map[event.StateKeyTuple]id.EventID) (map[event.StateKeyTuple]id.EventID, error) {
	agreed, conflicted := split(sets, false)
	r.agreed, r.based = agreed, true
	disputes := make(map[event.StateKeyTuple][]node)
	var all collection
	for _, eventIDs := range conflicted {
		for _, n := range r.findAll(eventIDs) {
			all.add(n)
		}
	}
	if !r.read(all.list) {
		return nil, r.missingError()
	}
	for _, eventIDs := range conflicted {
		for _, n := range r.findAll(eventIDs) {
			if key := r.outline(n).Tuple(); !slices.Contains(disputes[key], n) {
				disputes[key] = append(disputes[key], n)
			}
		}
	}
	if err := r.missingError(); err != nil {
		return nil, err
	}
	r.expect(all.list)
	for _, nodes := range disputes {
		r.sortByDepth(nodes)
	}
	for _, typ := range []string{event.TypePowerLevels, event.TypeJoinRules, event.TypeMember} {
		won := make(map[event.StateKeyTuple]node)
		for key, nodes := range disputes {
			if key.Type == typ {
				won[key] = r.lastAllowed(key, nodes)
				delete(disputes, key)
			}
		}
		// Only now, so that the outcome does not depend on the order of keys.
		for key, n := range won {
			r.state[key] = n
		}
	}
	won := make(map[event.StateKeyTuple]node)
	for key, nodes := range disputes {
		won[key] = r.newestAllowed(nodes)
	}
	for key, n := range won {
		r.state[key] = n
	}
	return agreed, r.missingError()
}

// sortByDepth sorts by ascending depth, then descending SHA-1 of the event ID.
func (r *resolver) sortByDepth(nodes []node) {
	slices.SortFunc(nodes, func(a, b node) int {
		x, y := r.outline(a), r.outline(b)
		if c := cmp.Compare(x.Depth, y.Depth); c != 0 {
			return c
		}
		hashX, hashY := sha1.Sum([]byte(x.ID)), sha1.Sum([]byte(y.ID)) //nolint:gosec // see above
		return bytes.Compare(hashY[:], hashX[:])
	})
}

// lastAllowed takes the first event and goes on to the next for as long as each is allowed by the one before.
func (r *resolver) lastAllowed(key event.StateKeyTuple, nodes []node) node {
	defer delete(r.state, key)
	last := nodes[0]
	for _, n := range nodes[1:] {
		r.state[key] = last
		if !r.allowed(r.at(n), nil) {
			break
		}
		last = n
	}
	return last
}

// newestAllowed is the last event that is allowed; the first if none is.
func (r *resolver) newestAllowed(nodes []node) node {
	for _, n := range slices.Backward(nodes) {
		if r.allowed(r.at(n), nil) {
			return n
		}
	}
	return nodes[0]
}
