package store

import (
	"math/bits"
	"math/rand/v2"
)

// StateMap is a room's state as a persistent map from interned state keys to events: Set returns a
// new map that shares with the old one all that did not change. The zero value is empty. It may be read
// by many goroutines.
//
// It is a hash trie over the bits of the key, which are spread well since keys are numbered in turn.
type StateMap struct {
	root *trieNode
	size int
	sum  uint64 // of the hashes of all that is in it
}

type trieEntry struct {
	key   int64
	event EventNID
}

type trieNode struct {
	leafBits, kidBits uint32
	leaves            []trieEntry
	kids              []*trieNode
}

// Len is the number of pieces of state.
func (m StateMap) Len() int { return m.size }

func slot(key int64, shift uint) uint32 { return 1 << ((uint64(key) >> shift) & 31) }

func rank(set, bit uint32) int { return bits.OnesCount32(set & (bit - 1)) }

// Get returns the event under a key, 0 if there is none.
func (m StateMap) Get(key int64) EventNID {
	n := m.root
	for shift := uint(0); n != nil; shift += 5 {
		bit := slot(key, shift)
		if n.leafBits&bit != 0 {
			if l := n.leaves[rank(n.leafBits, bit)]; l.key == key {
				return l.event
			}
			return 0
		}
		if n.kidBits&bit == 0 {
			return 0
		}
		n = n.kids[rank(n.kidBits, bit)]
	}
	return 0
}

// Set returns the map with an event under a key; event 0 removes the key.
func (m StateMap) Set(key int64, event EventNID) StateMap {
	old := m.Get(key)
	if old == event {
		return m
	}
	sum := m.sum
	if old != 0 {
		sum -= hash(key, old)
	}
	if event == 0 {
		return StateMap{m.root.remove(key, 0), m.size - 1, sum}
	}
	size := m.size
	if old == 0 {
		size++
	}
	return StateMap{m.root.set(trieEntry{key, event}, 0), size, sum + hash(key, event)}
}

// Equal says whether two maps hold the same. Maps that differ are told apart at once.
func (m StateMap) Equal(other StateMap) bool {
	if m.size != other.size || m.sum != other.sum {
		return false
	}
	same := true
	m.Diff(other, func(int64, EventNID, EventNID) { same = false })
	return same
}

// hashSeed keeps others from knowing which maps have one sum.
var hashSeed = rand.Uint64()

func hash(key int64, event EventNID) uint64 {
	h := hashSeed
	for _, n := range [2]uint64{uint64(key), uint64(event)} {
		h = (h ^ n) * 0x9e3779b97f4a7c15
		h ^= h >> 32
	}
	return h
}

func (n *trieNode) set(e trieEntry, shift uint) *trieNode {
	bit := slot(e.key, shift)
	if n == nil {
		return &trieNode{leafBits: bit, leaves: []trieEntry{e}}
	}
	c := &trieNode{n.leafBits, n.kidBits, n.leaves, n.kids}
	switch {
	case n.kidBits&bit != 0:
		i := rank(n.kidBits, bit)
		c.kids = replaced(n.kids, i, n.kids[i].set(e, shift+5))
	case n.leafBits&bit != 0:
		i := rank(n.leafBits, bit)
		if n.leaves[i].key == e.key {
			c.leaves = replaced(n.leaves, i, e)
			break
		}
		kid := (*trieNode)(nil).set(n.leaves[i], shift+5).set(e, shift+5)
		c.leafBits, c.leaves = n.leafBits&^bit, without(n.leaves, i)
		c.kidBits, c.kids = n.kidBits|bit, with(n.kids, rank(n.kidBits, bit), kid)
	default:
		c.leafBits, c.leaves = n.leafBits|bit, with(n.leaves, rank(n.leafBits, bit), e)
	}
	return c
}

func (n *trieNode) remove(key int64, shift uint) *trieNode {
	bit := slot(key, shift)
	c := &trieNode{n.leafBits, n.kidBits, n.leaves, n.kids}
	if n.leafBits&bit != 0 {
		c.leafBits, c.leaves = n.leafBits&^bit, without(n.leaves, rank(n.leafBits, bit))
	} else {
		i := rank(n.kidBits, bit)
		if kid := n.kids[i].remove(key, shift+5); kid == nil {
			c.kidBits, c.kids = n.kidBits&^bit, without(n.kids, i)
		} else {
			c.kids = replaced(n.kids, i, kid)
		}
	}
	if c.leafBits == 0 && c.kidBits == 0 {
		return nil
	}
	return c
}

func replaced[T any](s []T, i int, v T) []T {
	c := make([]T, len(s))
	copy(c, s)
	c[i] = v
	return c
}

func with[T any](s []T, i int, v T) []T {
	c := make([]T, len(s)+1)
	copy(c, s[:i])
	c[i] = v
	copy(c[i+1:], s[i:])
	return c
}

func without[T any](s []T, i int) []T {
	c := make([]T, 0, len(s)-1)
	return append(append(c, s[:i]...), s[i+1:]...)
}

// All calls f for every piece of state, in no particular order, until it returns false. It may be ranged over.
func (m StateMap) All(f func(key int64, event EventNID) bool) { m.root.all(f) }

func (n *trieNode) all(f func(int64, EventNID) bool) bool {
	if n == nil {
		return true
	}
	for _, l := range n.leaves {
		if !f(l.key, l.event) {
			return false
		}
	}
	for _, k := range n.kids {
		if !k.all(f) {
			return false
		}
	}
	return true
}

// Diff calls f for every key under which the two maps differ. What they share is not visited.
func (m StateMap) Diff(other StateMap, f func(key int64, mine, others EventNID)) {
	diff(m.root, other.root, 0, f)
}

func diff(a, b *trieNode, shift uint, f func(int64, EventNID, EventNID)) {
	if a == b {
		return
	}
	for i := range 32 {
		bit := uint32(1) << i
		x, y := a.under(bit), b.under(bit)
		if x.node != nil && y.node != nil {
			diff(x.node, y.node, shift+5, f)
			continue
		}
		x.each(func(key int64, mine EventNID) {
			if others := y.get(key, shift+5); others != mine {
				f(key, mine, others)
			}
		})
		y.each(func(key int64, others EventNID) {
			if x.get(key, shift+5) == 0 {
				f(key, 0, others)
			}
		})
	}
}

// branch is what stands under one bit of a node: nothing, a leaf, or a node.
type branch struct {
	leaf trieEntry
	node *trieNode
}

func (n *trieNode) under(bit uint32) branch {
	switch {
	case n == nil:
	case n.leafBits&bit != 0:
		return branch{leaf: n.leaves[rank(n.leafBits, bit)]}
	case n.kidBits&bit != 0:
		return branch{node: n.kids[rank(n.kidBits, bit)]}
	}
	return branch{}
}

func (b branch) each(f func(int64, EventNID)) {
	if b.node != nil {
		b.node.all(func(k int64, e EventNID) bool { f(k, e); return true })
	} else if b.leaf.event != 0 {
		f(b.leaf.key, b.leaf.event)
	}
}

func (b branch) get(key int64, shift uint) EventNID {
	n := b.node
	if n == nil {
		if b.leaf.key == key {
			return b.leaf.event
		}
		return 0
	}
	for ; n != nil; shift += 5 {
		bit := slot(key, shift)
		next := n.under(bit)
		if next.node == nil {
			if next.leaf.key == key {
				return next.leaf.event
			}
			return 0
		}
		n = next.node
	}
	return 0
}
