package stream

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/securecomm/securecomm/homeserver/id"
)

// remembered is how many changes a Hub keeps for readers that are nearly up to date.
const remembered = 1 << 14

// Hub remembers the newest part of the log and wakes those who wait for more of it. It is safe for
// concurrent use. The zero value is not ready: use NewHub.
type Hub struct {
	mu      sync.RWMutex
	current Position
	floor   Position // changes at and below it are not in recent
	recent  []Change // in order of position
	waiters map[id.UserID]map[*Waiter]struct{}
	outward map[*Waiter]struct{} // those who deliver to other servers

	epochsMu sync.Mutex
	epochs   atomic.Pointer[[]Epoch]
}

// NewHub makes a Hub for a log that stands at a position.
func NewHub(current Position) *Hub {
	return &Hub{
		current: current, floor: current,
		waiters: map[id.UserID]map[*Waiter]struct{}{}, outward: map[*Waiter]struct{}{},
	}
}

// Waiter is woken when something happens that concerns its user. C has room for one signal, so that a
// wake-up between looking and waiting is not lost.
type Waiter struct {
	C    chan struct{}
	hub  *Hub
	user id.UserID
}

// Subscribe makes a Waiter for a user; an empty user hears of what other servers have to be told. Close it after use.
func (h *Hub) Subscribe(user id.UserID) *Waiter {
	w := &Waiter{C: make(chan struct{}, 1), hub: h, user: user}
	h.mu.Lock()
	defer h.mu.Unlock()
	if user == "" {
		h.outward[w] = struct{}{}
		return w
	}
	if h.waiters[user] == nil {
		h.waiters[user] = map[*Waiter]struct{}{}
	}
	h.waiters[user][w] = struct{}{}
	return w
}

// Close ends the subscription.
func (w *Waiter) Close() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	delete(w.hub.outward, w)
	if set := w.hub.waiters[w.user]; set != nil {
		delete(set, w)
		if len(set) == 0 {
			delete(w.hub.waiters, w.user)
		}
	}
}

func (w *Waiter) signal() {
	select {
	case w.C <- struct{}{}:
	default:
	}
}

// Current is the position up to which everything is committed and published.
func (h *Hub) Current() Position {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.current
}

// Publish appends committed changes, in order of position, and wakes whom they name. Where positions are missing, another
// process has taken them: who reads across the gap has to ask the database.
func (h *Hub) Publish(upto Position, changes []Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(changes) > 0 && changes[0].Position > h.current+1 {
		h.floor, h.recent = changes[0].Position-1, nil
	}
	if upto > h.current {
		h.current = upto
	}
	h.recent = append(h.recent, changes...)
	if len(h.recent) > 2*remembered {
		cut := len(h.recent) - remembered
		h.floor = h.recent[cut-1].Position
		h.recent = slices.Clone(h.recent[cut:])
	}
	outward := false
	for i := range changes {
		h.wake(changes[i].Wake)
		outward = outward || len(changes[i].Servers) > 0
	}
	if outward {
		for w := range h.outward {
			w.signal()
		}
	}
}

// Wake wakes users without a durable change: for typing and presence.
func (h *Hub) Wake(users ...id.UserID) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	h.wake(users)
}

func (h *Hub) wake(users []id.UserID) {
	for _, user := range users {
		for w := range h.waiters[user] {
			w.signal()
		}
	}
}

// Since returns the changes behind a position up to another one. The answer is false if the Hub does
// not remember that far back, or has not heard of the last of them: then the database has to be asked. The
// slice must not be changed.
func (h *Hub) Since(since, upto Position) ([]Change, bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if since < h.floor || upto > h.current {
		return nil, false
	}
	from := after(h.recent, since)
	to := after(h.recent, upto)
	if to < from {
		return nil, true
	}
	return h.recent[from:to:to], true
}

func after(changes []Change, p Position) int {
	i, _ := slices.BinarySearchFunc(changes, p, func(c Change, p Position) int {
		if c.Position <= p {
			return -1
		}
		return 1
	})
	return i
}
