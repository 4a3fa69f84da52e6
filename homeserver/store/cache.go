package store

import (
	"github.com/maypok86/otter/v2"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
)

// Sizes of the caches.
const (
	eventCacheBytes = 14 << 20
	cachedIDs       = 1 << 15
	cachedKeys      = 1 << 16
	cachedStates    = 1 << 12
	cachedRooms     = 1 << 13
	cachedKeyCounts = 1 << 16
	cachedRequests  = 1 << 13
)

// caches hold what is read often and changes never, or only through Tx.AfterCommit.
type caches struct {
	events    *otter.Cache[EventNID, *Event]
	eventIDs  *otter.Cache[id.EventID, EventNID]
	keys      *otter.Cache[event.StateKeyTuple, int64]
	tuples    *otter.Cache[int64, event.StateKeyTuple]
	states    *otter.Cache[StateNID, StateMap]
	rooms     *otter.Cache[id.RoomID, *Room]
	roomNIDs  *otter.Cache[RoomNID, *Room]
	keyCounts *otter.Cache[deviceName, cachedCounts]
	requests  *otter.Cache[string, RequestKey]
}

func (c *caches) init() {
	c.events = otter.Must(&otter.Options[EventNID, *Event]{
		MaximumWeight: eventCacheBytes,
		Weigher:       weigh,
	})
	c.eventIDs = sized[id.EventID, EventNID](cachedIDs)
	c.keys = sized[event.StateKeyTuple, int64](cachedKeys)
	c.tuples = sized[int64, event.StateKeyTuple](cachedKeys)
	c.states = sized[StateNID, StateMap](cachedStates)
	c.rooms = sized[id.RoomID, *Room](cachedRooms)
	c.roomNIDs = sized[RoomNID, *Room](cachedRooms)
	c.keyCounts = sized[deviceName, cachedCounts](cachedKeyCounts)
	c.requests = sized[string, RequestKey](cachedRequests)
}

func sized[K comparable, V any](n int) *otter.Cache[K, V] {
	return otter.Must(&otter.Options[K, V]{MaximumSize: n})
}
