package room

import (
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

const (
	// maxLooks bounds how often the memberships of a server's users are looked up in states for one answer, maxLookedSize the
	// member events that are read for it, in bytes, lookAtOnce at a time: beyond, it sees nothing of what takes a membership.
	maxLooks      = 2_000_000
	maxLookedSize = 32 << 20
	lookAtOnce    = 100
)

// visibility decides what of a room's history a server sees that is in the room now.
type visibility struct {
	tx     *store.Tx
	room   *store.Room
	server id.ServerName
	keys   []int64 // state keys of the server's members, now and before; the one that let it see last comes first
	read   bool

	before  map[store.StateNID]bool   // what it sees of events before which these states were
	members map[store.EventNID]string // memberships, by the events that say so
	looks   int                       // that are left
	size    int                       // of member events, that is left
}

func newVisibility(tx *store.Tx, room *store.Room, server id.ServerName) *visibility {
	return &visibility{
		tx: tx, room: room, server: server, looks: maxLooks, size: maxLookedSize,
		before: map[store.StateNID]bool{}, members: map[store.EventNID]string{},
	}
}

// Shown decides which events of a room a server sees that is in the room, within a transaction.
func Shown(tx *store.Tx, room *store.Room, server id.ServerName) func(*store.Event) (bool, error) {
	return newVisibility(tx, room, server).visible
}

func (v *visibility) visible(ev *store.Event) (bool, error) {
	switch {
	case ev.Outlier():
		return true, nil // state that was fetched to authorize what is visible
	case ev.StateKeyIs(event.TypeHistoryVisibility, ""), ev.StateKey != nil && ev.Type == event.TypeMember && id.UserID(*ev.StateKey).Server() == v.server:
		m, err := v.tx.States.Behind(ev)
		if err != nil {
			return false, err
		}
		return v.sees(m)
	}
	if sees, known := v.before[ev.StateBefore]; known {
		return sees, nil
	}
	m, err := v.tx.States.Map(ev.StateBefore)
	if err != nil {
		return false, fmt.Errorf("the state before %s: %w", ev.ID, err)
	}
	sees, err := v.sees(m)
	v.before[ev.StateBefore] = sees
	return sees, err
}

// sees says whether any of the server's users sees what happens in a state (Client-Server API, "Room history visibility").
func (v *visibility) sees(m store.StateMap) (bool, error) {
	setting, err := v.tx.States.Event(m, event.StateKeyTuple{Type: event.TypeHistoryVisibility})
	if err != nil {
		return false, err
	}
	if setting == nil {
		return true, nil
	}
	allowed := map[string][]string{"joined": {"join"}, "invited": {"join", "invite"}}[event.HistoryVisibility(setting.Content)]
	if allowed == nil {
		return true, nil
	}
	return v.any(m, allowed...)
}

// any says whether any of the server's users has one of some memberships in a state.
func (v *visibility) any(m store.StateMap, allowed ...string) (bool, error) {
	if err := v.readKeys(); err != nil {
		return false, err
	}
	// Who let it see last does so again, nearly always.
	for first, end := 0, 1; first < len(v.keys); first, end = end, end+lookAtOnce {
		end = min(end, len(v.keys))
		i, err := v.which(m, v.keys[first:end], allowed)
		if err != nil {
			return false, err
		}
		if i >= 0 {
			v.keys[0], v.keys[first+i] = v.keys[first+i], v.keys[0]
			return true, nil
		}
	}
	return false, nil
}

// which of some users has one of the memberships allowed; -1 if none has, or too much was looked at.
func (v *visibility) which(m store.StateMap, keys []int64, allowed []string) (int, error) {
	if v.looks -= len(keys); v.looks < 0 {
		return -1, nil
	}
	nids := make([]store.EventNID, len(keys))
	var missing []store.EventNID
	for i, key := range keys {
		nids[i] = m.Get(key)
		if _, known := v.members[nids[i]]; !known && nids[i] != 0 {
			missing = append(missing, nids[i])
		}
	}
	if len(missing) > 0 && v.size > 0 {
		members, err := v.tx.Events.ByNID(missing...)
		if err != nil {
			return -1, err
		}
		for _, member := range members {
			v.members[member.NID] = member.Membership()
			v.size -= len(member.JSON)
		}
	}
	return slices.IndexFunc(nids, func(nid store.EventNID) bool { return slices.Contains(allowed, v.members[nid]) }), nil
}

func (v *visibility) readKeys() error {
	if v.read {
		return nil
	}
	users, err := v.tx.Memberships.OfServer(v.room.NID, v.server)
	if err != nil {
		return err
	}
	for _, user := range users {
		key, err := v.tx.States.FindKey(event.StateKeyTuple{Type: event.TypeMember, StateKey: string(user)})
		if err != nil {
			return err
		}
		v.keys = append(v.keys, key)
	}
	v.read = true
	return nil
}
