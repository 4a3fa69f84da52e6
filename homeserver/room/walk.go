package room

import (
	"container/heap"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

const (
	// maxWalked is how many events are looked at for one answer to another server, maxWalkedSize how many bytes of them: the
	// events by which that is reached are the last. They are read walkedAtOnce.
	maxWalked     = 2000
	maxWalkedSize = 32 << 20
	walkedAtOnce  = 20
)

// walk goes from events of a room into its past, the newest first. Of what it looks at it holds no contents.
type walk struct {
	tx       *store.Tx
	room     *store.Room
	seen     map[id.EventID]bool // those that were looked at, and those to stop at
	minDepth int64
	ahead    newest
	events   int // how many may still be looked at
	size     int // and how many bytes of them
}

// newWalk stops at some events, which do not count, and at those of less than a depth.
func newWalk(tx *store.Tx, room *store.Room, stop []id.EventID, minDepth int64) *walk {
	w := &walk{tx: tx, room: room, seen: make(map[id.EventID]bool, len(stop)), minDepth: minDepth, events: maxWalked, size: maxWalkedSize}
	for _, s := range stop {
		w.seen[s] = true
	}
	return w
}

// find reads up to limit events from some into the past, those included; at most MaxBackfill, whatever the limit.
func (w *walk) find(from []id.EventID, limit int) ([]*store.Event, error) {
	limit = min(limit, MaxBackfill) // it is a stranger's number
	if err := w.look(from); err != nil {
		return nil, err
	}
	var out []store.EventNID
	for len(w.ahead) > 0 && len(out) < limit {
		ev := heap.Pop(&w.ahead).(step)
		if !ev.rejected {
			out = append(out, ev.nid)
		}
		if err := w.look(ev.prev); err != nil {
			return nil, err
		}
	}
	return w.tx.Events.ByNID(out...)
}

// look puts events ahead that were not looked at before, as long as there may be more.
func (w *walk) look(ids []id.EventID) error {
	for some := range slices.Chunk(ids, walkedAtOnce) {
		fresh := make([]id.EventID, 0, len(some))
		for _, i := range some {
			if !w.seen[i] && w.events > 0 && w.size > 0 {
				w.seen[i] = true
				fresh = append(fresh, i)
				w.events--
			}
		}
		list, err := w.tx.Events.ByID(fresh...)
		if err != nil {
			return err
		}
		for _, ev := range list {
			w.size -= len(ev.JSON)
			if ev.Room == w.room.NID && !ev.Outlier() && ev.Depth >= w.minDepth {
				heap.Push(&w.ahead, step{ev.NID, ev.Depth, ev.PrevEvents, ev.Rejected})
			}
		}
	}
	return nil
}

// step is an event on a walk.
type step struct {
	nid      store.EventNID
	depth    int64
	prev     []id.EventID
	rejected bool
}

// newest is a heap of events. Depth comes from strangers, but decides here only what is looked at first.
type newest []step

func (h newest) Len() int           { return len(h) }
func (h newest) Less(i, j int) bool { return h[i].depth > h[j].depth }
func (h newest) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *newest) Push(x any)        { *h = append(*h, x.(step)) }
func (h *newest) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
