package room

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stateres"
	"github.com/securecomm/securecomm/homeserver/store"
)

// maxGraphs is how many events the graphs in memory may have together: some hundred bytes each.
const maxGraphs = 150_000

// authGraph is which events of a room authorize which, as far as resolutions of its state have asked. An event is in it
// only with everything that authorizes it. All this never changes, whoever writes the room, so that it is read once.
type authGraph struct {
	mu    sync.Mutex
	index map[id.EventID]int32
	nodes []authNode
	// covered is a state all of which is in the graph. From one resolution to the next little of it changes.
	covered store.StateMap
	size    atomic.Int64 // how many nodes there are
}

type authNode struct {
	id       id.EventID
	nid      store.EventNID
	key      int64 // of the state, once it was in one that was covered
	rank     int64
	isLevels bool
	levels   int32 // the m.room.power_levels among auth, or none
	auth     []int32
	citedBy  []int32
}

const none = -1

// graph is the graph of a room. If all together have grown too large, others go.
func (e *Engine) graph(room store.RoomNID) *authGraph {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.graphs == nil {
		e.graphs = map[store.RoomNID]*authGraph{}
	}
	total := int64(0)
	for _, g := range e.graphs {
		total += g.size.Load()
	}
	for other, g := range e.graphs {
		if total <= maxGraphs {
			break
		}
		if other != room || g.size.Load() > maxGraphs {
			total -= g.size.Load()
			delete(e.graphs, other)
		}
	}
	g := e.graphs[room]
	if g == nil {
		g = &authGraph{index: map[id.EventID]int32{}}
		e.graphs[room] = g
	}
	return g
}

// forgetGraph forgets the graph of a room of which nothing is kept any longer.
func (e *Engine) forgetGraph(room store.RoomNID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.graphs, room)
}

// add takes in events and everything that authorizes them, read level by level. What leads to an event that is not here
// is left out.
func (g *authGraph) add(s *eventSource, events []*store.Event) error {
	found := map[id.EventID]*store.Event{}
	for level := events; len(level) > 0; {
		var wanted []id.EventID
		asked := map[id.EventID]bool{}
		for _, ev := range level {
			if _, known := g.index[ev.ID]; !known {
				found[ev.ID] = ev
			}
		}
		for _, ev := range level {
			if found[ev.ID] == nil {
				continue
			}
			for _, a := range ev.AuthEvents {
				if _, known := g.index[a]; !known && found[a] == nil && !asked[a] {
					asked[a] = true
					wanted = append(wanted, a)
				}
			}
		}
		if len(wanted) == 0 {
			break
		}
		var err error
		if level, err = s.readByID(wanted); err != nil {
			return err
		}
	}
	for _, ev := range events {
		g.place(ev, found)
	}
	return nil
}

// place puts an event into the graph, behind everything among those found that authorizes it. Events that authorize each
// other in a circle are left out.
func (g *authGraph) place(ev *store.Event, found map[id.EventID]*store.Event) {
	begun := map[id.EventID]bool{}
	stack := []*store.Event{ev}
	for len(stack) > 0 {
		top := stack[len(stack)-1]
		if _, known := g.index[top.ID]; known {
			stack = stack[:len(stack)-1]
			continue
		}
		if begun[top.ID] {
			stack = stack[:len(stack)-1]
			g.insert(top)
			continue
		}
		begun[top.ID] = true
		for _, a := range top.AuthEvents {
			if _, known := g.index[a]; !known && found[a] != nil && !begun[a] {
				stack = append(stack, found[a])
			}
		}
	}
}

func (g *authGraph) insert(ev *store.Event) {
	n := authNode{id: ev.ID, nid: ev.NID, rank: 1, isLevels: ev.StateKeyIs(event.TypePowerLevels, ""), levels: none}
	for _, a := range ev.AuthEvents {
		i, known := g.index[a]
		if !known {
			return
		}
		if slices.Contains(n.auth, i) {
			continue
		}
		n.auth = append(n.auth, i)
		n.rank = max(n.rank, g.nodes[i].rank+1)
		if n.levels == none && g.nodes[i].isLevels {
			n.levels = i
		}
	}
	at := int32(len(g.nodes))
	for _, i := range n.auth {
		g.nodes[i].citedBy = append(g.nodes[i].citedBy, at)
	}
	g.nodes = append(g.nodes, n)
	g.index[ev.ID] = at
	g.size.Store(int64(len(g.nodes)))
}

// stands is where an event stands; false if it is not in the graph.
func (g *authGraph) stands(eventID id.EventID) (stateres.Place, bool) {
	i, ok := g.index[eventID]
	if !ok {
		return stateres.Place{}, false
	}
	n := &g.nodes[i]
	p := stateres.Place{Rank: n.rank, Auth: make([]id.EventID, len(n.auth))}
	for j, a := range n.auth {
		p.Auth[j] = g.nodes[a].id
	}
	if n.levels != none {
		p.Levels = g.nodes[n.levels].id
	}
	return p, true
}

// cover takes in a state, as far as it differs from the one that was covered before.
func (g *authGraph) cover(s *eventSource, m store.StateMap) error {
	fresh := map[store.EventNID]int64{}
	var nids []store.EventNID
	g.covered.Diff(m, func(key int64, _, now store.EventNID) {
		if now != 0 {
			fresh[now] = key
			nids = append(nids, now)
		}
	})
	events, err := s.readByNID(nids)
	if err != nil {
		return err
	}
	if err := g.add(s, events); err != nil {
		return err
	}
	for _, ev := range events {
		if i, ok := g.index[ev.ID]; ok {
			// A room that was purged and came back has its events under other numbers.
			g.nodes[i].nid, g.nodes[i].key = ev.NID, fresh[ev.NID]
		}
		delete(fresh, ev.NID)
	}
	for _, key := range fresh {
		m = m.Set(key, 0) // not here
	}
	g.covered = m
	return nil
}

// leads says which of some events are in the part of a covered state that holds picks, or authorize something of it.
func (g *authGraph) leads(to []id.EventID, holds func(key int64, nid store.EventNID) bool) map[id.EventID]bool {
	out := map[id.EventID]bool{}
	dead := map[int32]bool{}
	for _, eventID := range to {
		start, ok := g.index[eventID]
		if !ok {
			continue
		}
		seen := map[int32]bool{start: true}
		stack := []int32{start}
		for len(stack) > 0 && !out[eventID] {
			n := &g.nodes[stack[len(stack)-1]]
			stack = stack[:len(stack)-1]
			if n.key != 0 && holds(n.key, n.nid) {
				out[eventID] = true
			}
			for _, c := range n.citedBy {
				if !seen[c] && !dead[c] {
					seen[c] = true
					stack = append(stack, c)
				}
			}
		}
		if !out[eventID] {
			for i := range seen {
				dead[i] = true
			}
		}
	}
	return out
}
