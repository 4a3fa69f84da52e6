package room

import (
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Walk is a walk that may look at less than usual; it tells how many events it looked at.
func Walk(tx *store.Tx, room *store.Room, from []id.EventID, events, size int) (found []*store.Event, looked int, err error) {
	w := newWalk(tx, room, nil, 0)
	w.events, w.size = events, size
	found, err = w.find(from, MaxBackfill)
	return found, len(w.seen), err
}
