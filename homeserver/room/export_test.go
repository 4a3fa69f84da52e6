package room

import (
	"context"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// LimitFurther has rooms keep fewer ends than usual, until it is undone.
func LimitFurther(n int) (undo func()) {
	was := maxFurther
	maxFurther = n
	return func() { maxFurther = was }
}

// Walk is a walk that may look at less than usual; it tells how many events it looked at.
func Walk(tx *store.Tx, room *store.Room, from []id.EventID, events, size int) (found []*store.Event, looked int, err error) {
	w := newWalk(tx, room, nil, 0)
	w.events, w.size = events, size
	found, err = w.find(from, MaxBackfill)
	return found, len(w.seen), err
}

// Sees is how many of some events a server in a room sees, and how many memberships were looked up for that and read.
func Sees(tx *store.Tx, room *store.Room, server id.ServerName, events []*store.Event) (seen, looks, read int, err error) {
	v := newVisibility(tx, room, server)
	for _, ev := range events {
		visible, err := v.visible(ev)
		if err != nil {
			return 0, 0, 0, err
		}
		if visible {
			seen++
		}
	}
	return seen, maxLooks - v.looks, len(v.members), nil
}

// OlderReaders is how many wait for the fetch of a room's older history that is under way.
func OlderReaders(e *Engine, roomID id.RoomID) int {
	e.mu.Lock()
	l := e.rooms[roomID]
	e.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.older == nil {
		return 0
	}
	return l.older.readers
}

// KeptOutliers is how many of some events are known once they are kept, and the bytes that are held of these and of what
// they are judged by.
func KeptOutliers(e *Engine, roomID id.RoomID, events []event.Verified) (n, size int, err error) {
	l, err := e.live(context.Background(), roomID)
	if err != nil {
		return 0, 0, err
	}
	known, err := e.keepOutliers(context.Background(), l.room, events)
	for _, ev := range known {
		size += len(ev.JSON)
	}
	for _, v := range events {
		if known[v.Event().ID] != nil {
			n++
		}
	}
	return n, size, err
}
