package room

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// live is a room in memory: its head and what is derived from the current state.
type live struct {
	room *store.Room

	// turns has each server that events are being received from, which may wait for that server, with those who wait for
	// the next turn of that server, the oldest first.
	turns map[id.ServerName][]chan struct{}
	// placing is held while a received event is placed: from the look whether it is here until its commit.
	placing sync.Mutex

	mu     sync.Mutex // guards turns and what follows; never held over the network or a commit
	loaded bool
	queued []*draft // those that are not committed yet, in order; the face has them all
	face
	older   *older                      // the fetch of older history that is under way; nil if none is
	through id.ServerName               // the server through which somebody came in last, if that was since the start
	failed  map[id.ServerName]time.Time // servers that were of no help with the room, and when
	acl     *acl                        // of the current state, once it was asked for
}

// face is a room at one moment. The slices and maps in it are replaced, not changed, so that copies stay true.
type face struct {
	head    store.Head
	further []store.Extremity // the ends that the head has no place for, the oldest first
	apart   []store.Extremity // those of further that differ in state; nil if that is to be found anew
	merged  *merged           // what was resolved of late
	state   store.Snapshot
	auth    *eventauth.Context
	summary store.Summary
	local   []id.UserID                          // the joined users of this server
	servers map[id.ServerName]int                // how many users of each server are joined
	others  []id.ServerName                      // all of these but this one
	known   map[event.StateKeyTuple]*store.Event // part of the current state, read before
}

// maxLive is how many rooms are kept in memory; beyond it, those that nobody uses at the moment are let go.
const maxLive = 4096

// live finds the room in memory or reads it from the database.
func (e *Engine) live(ctx context.Context, roomID id.RoomID) (*live, error) {
	e.mu.Lock()
	l := e.rooms[roomID]
	e.mu.Unlock()
	if l != nil {
		return l, nil
	}
	var room *store.Room
	err := e.Store.View(ctx, func(tx *store.Tx) (err error) {
		room, err = tx.Rooms.ByID(roomID)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find room %s: %w", roomID, err)
	}
	if room == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, roomID)
	}
	return e.keep(&live{room: room}), nil
}

func (e *Engine) keep(l *live) *live {
	e.mu.Lock()
	defer e.mu.Unlock()
	if known := e.rooms[l.room.ID]; known != nil {
		return known
	}
	if e.rooms == nil {
		e.rooms = map[id.RoomID]*live{}
	}
	if len(e.rooms) >= maxLive {
		for k, old := range e.rooms {
			// Dropping a room in use is harmless for what is right, since the stored head is compared on every
			// write; it only costs retries. So only idle ones go, and none of which something is being committed, or
			// what names that would not find it.
			if old.mu.TryLock() {
				if len(old.queued) == 0 {
					delete(e.rooms, k)
				}
				old.mu.Unlock()
			}
			if len(e.rooms) < maxLive/2 {
				break
			}
		}
	}
	e.rooms[l.room.ID] = l
	return l
}

// maxKnown bounds face.known while nothing is under way. Until then nothing is forgotten: what is not committed yet
// could not be read again.
const maxKnown = 256

// turn waits until nothing else that came from a server is being received in the room, so that a server which does
// not explain its events holds up none but its own. The function returned ends the turn.
func (l *live) turn(ctx context.Context, origin id.ServerName) (func(), error) {
	done := func() { l.passTurn(origin) }
	l.mu.Lock()
	waiting, taken := l.turns[origin]
	if !taken {
		if l.turns == nil {
			l.turns = map[id.ServerName][]chan struct{}{}
		}
		l.turns[origin] = nil
		l.mu.Unlock()
		return done, nil
	}
	mine := make(chan struct{})
	l.turns[origin] = append(waiting, mine)
	l.mu.Unlock()
	select {
	case <-mine:
		return done, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	i := slices.Index(l.turns[origin], mine)
	if i >= 0 {
		l.turns[origin] = slices.Delete(l.turns[origin], i, i+1)
	}
	l.mu.Unlock()
	if i < 0 { // it has come meanwhile
		done()
	}
	return nil, ctx.Err()
}

// passTurn gives a server's turn to the one who has waited longest: were all woken, they would be in each other's way.
func (l *live) passTurn(origin id.ServerName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting := l.turns[origin]
	if len(waiting) == 0 {
		delete(l.turns, origin)
		return
	}
	close(waiting[0])
	l.turns[origin] = slices.Delete(waiting, 0, 1)
}

// forget makes room in known. The caller holds the lock.
func (l *live) forget() {
	known := make(map[event.StateKeyTuple]*store.Event, maxKnown)
	for _, typ := range ruleTypes {
		t := event.StateKeyTuple{Type: typ}
		if ev, ok := l.known[t]; ok {
			known[t] = ev
		}
	}
	l.known = known
}

// ruleTypes are the types of the state that eventauth.Context is made of; it is always known.
var ruleTypes = []string{event.TypeCreate, event.TypePowerLevels, event.TypeJoinRules}

// load reads the room as it stands in the database. The caller holds the lock.
func (e *Engine) load(ctx context.Context, l *live) error {
	if l.loaded {
		return nil
	}
	f := face{known: map[event.StateKeyTuple]*store.Event{}, servers: map[id.ServerName]int{}, merged: &merged{}}
	err := e.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		if f.head, err = tx.Rooms.Head(l.room.NID); err != nil {
			return err
		}
		if f.further, err = tx.Rooms.Ends(l.room.NID); err != nil {
			return err
		}
		if f.state, err = tx.States.Get(f.head.State); err != nil {
			return err
		}
		if f.summary, err = tx.Rooms.Summary(l.room.NID); err != nil {
			return err
		}
		users, err := tx.Memberships.Users(l.room.NID, "join")
		if err != nil {
			return err
		}
		for _, u := range users {
			f.servers[u.Server()]++
			if u.Server() == e.Server {
				f.local = append(f.local, u)
			}
		}
		f.others = e.others(f.servers)
		for _, typ := range ruleTypes {
			t := event.StateKeyTuple{Type: typ}
			ev, err := tx.States.Event(f.state.Map, t)
			if err != nil {
				return err
			}
			f.known[t] = ev
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read room %s: %w", l.room.ID, err)
	}
	f.auth = eventauth.NewContext(knownState(f.known), nil)
	l.face, l.loaded = f, true
	return nil
}

// knownState shows pieces of state that were read as a State to the authorization rules.
type knownState map[event.StateKeyTuple]*store.Event

// Get is the state event of that type and key; nil if there is none.
func (k knownState) Get(typ, stateKey string) *event.Event {
	if e := k[event.StateKeyTuple{Type: typ, StateKey: stateKey}]; e != nil {
		return e.Event
	}
	return nil
}

// lookUp finds pieces of a face's state; nil for those that are not set.
func (e *Engine) lookUp(ctx context.Context, f *face, tuples []event.StateKeyTuple) (knownState, error) {
	out := make(knownState, len(tuples))
	var missing []event.StateKeyTuple
	for _, t := range tuples {
		if ev, ok := f.known[t]; ok {
			out[t] = ev
		} else {
			missing = append(missing, t)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	err := e.Store.View(ctx, func(tx *store.Tx) error {
		for _, t := range missing {
			ev, err := tx.States.Event(f.state.Map, t)
			if err != nil {
				return err
			}
			out[t] = ev
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	for _, t := range missing {
		f.known[t] = out[t]
	}
	return out, nil
}
