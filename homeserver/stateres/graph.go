package stateres

import (
	"math/bits"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
)

// node is an event, as a small number.
type node int32

// graph is the part of a room's auth events that was looked at so far.
type graph struct {
	events  Events
	index   map[id.EventID]node
	nodes   []vertex
	missing []id.EventID
}

type vertex struct {
	id     id.EventID
	place  Place
	event  *event.Event // once read, or its outline
	large  bool         // event is the outline
	auth   []node       // its auth events, once opened
	opened bool
}

func newGraph(events Events) graph {
	return graph{events: events, index: make(map[id.EventID]node)}
}

// missed remembers that an event was asked for in vain.
const missed node = -1

// find is the node of an event; false, and noted, if the event is missing.
func (g *graph) find(eventID id.EventID) (node, bool) {
	n, ok := g.index[eventID]
	if ok {
		return n, n != missed
	}
	place, ok := g.events.Place(eventID)
	if !ok {
		g.index[eventID] = missed
		g.missing = append(g.missing, eventID)
		return missed, false
	}
	n = node(len(g.nodes))
	g.index[eventID] = n
	g.nodes = append(g.nodes, vertex{id: eventID, place: place})
	return n, true
}

func (g *graph) findAll(eventIDs []id.EventID) []node {
	found := make([]node, 0, len(eventIDs))
	for _, eventID := range eventIDs {
		if n, ok := g.find(eventID); ok {
			found = append(found, n)
		}
	}
	return found
}

// read reads events and what authorizes them, all at once. False, and noted, if one of the former is missing.
func (g *graph) read(nodes []node) bool {
	var ids []id.EventID
	for _, n := range nodes {
		ids = append(ids, g.nodes[n].id)
		for _, a := range g.auth(n) {
			ids = append(ids, g.nodes[a].id)
		}
	}
	g.events.Expect(ids)
	complete := true
	for _, n := range nodes {
		if g.outline(n) == nil {
			g.missing = append(g.missing, g.nodes[n].id)
			complete = false
		}
	}
	return complete
}

// maxKept is the size in bytes of the events that are kept while a resolution lasts. Larger ones are asked for each time
// that their content matters: there may be very many, as large as whoever sends them likes.
const maxKept = 2 << 10

// at is the event of a node; nil if it can't be read, which is not so for those that read found.
func (g *graph) at(n node) *event.Event {
	v := &g.nodes[n]
	if v.event != nil && !v.large {
		return v.event
	}
	e := g.events.Event(v.id)
	if e == nil || len(e.JSON) <= maxKept {
		v.event = e
	} else if v.event == nil {
		v.event, v.large = e.Outline(), true
	}
	return e
}

// outline is the event of a node, perhaps without its content.
func (g *graph) outline(n node) *event.Event {
	if e := g.nodes[n].event; e != nil {
		return e
	}
	g.at(n)
	return g.nodes[n].event
}

func (g *graph) rank(n node) int64 { return g.nodes[n].place.Rank }

// auth are the auth events of an event, without those that are missing.
func (g *graph) auth(n node) []node {
	if v := &g.nodes[n]; v.opened {
		return v.auth
	}
	auth := g.findAll(g.nodes[n].place.Auth)
	g.nodes[n].auth, g.nodes[n].opened = auth, true
	return auth
}

// levels is the m.room.power_levels among the auth events of an event; false if there is none.
func (g *graph) levels(n node) (node, bool) {
	if levels := g.nodes[n].place.Levels; levels != "" {
		return g.find(levels)
	}
	return missed, false
}

func (g *graph) missingError() error {
	if len(g.missing) == 0 {
		return nil
	}
	return &MissingError{IDs: g.missing}
}

// set is a set of nodes.
type set struct{ bits []uint64 }

func (s *set) has(n node) bool {
	word := int(n >> 6)
	return word < len(s.bits) && s.bits[word]&(1<<(n&63)) != 0
}

// add reports whether the node is new.
func (s *set) add(n node) bool {
	word := int(n >> 6)
	for word >= len(s.bits) {
		s.bits = append(s.bits, 0)
	}
	fresh := s.bits[word]&(1<<(n&63)) == 0
	s.bits[word] |= 1 << (n & 63)
	return fresh
}

// addAll adds another set of nodes that has no more words, and returns how many there are then.
func (s *set) addAll(other set) (count int) {
	for i, word := range other.bits {
		s.bits[i] |= word
	}
	for _, word := range s.bits {
		count += bits.OnesCount64(word)
	}
	return count
}

// reach calls visit for the nodes from and everything in their auth chains, each as long as visit says that
// it is to be passed through. It is for visit to know what it saw.
func (g *graph) reach(from []node, visit func(node) bool) {
	stack := append([]node(nil), from...)
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if visit(n) {
			stack = append(stack, g.auth(n)...)
		}
	}
}
