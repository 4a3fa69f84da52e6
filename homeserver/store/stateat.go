package store

import (
	"fmt"
	"math"

	"github.com/securecomm/securecomm/homeserver/stream"
)

// At is the state of a room at a position of the log: what all ends that the room had then resolved to, which need not be the
// state behind the event that came last. It is empty if no event is known from so long ago.
func (s States) At(room RoomNID, p stream.Position) (StateMap, error) {
	last, err := s.tx.Events.RangeOfState(room, math.MinInt64, p, 1, true)
	if err != nil || len(last) == 0 {
		return StateMap{}, err
	}
	var resolved StateNID
	found, err := s.tx.row([]any{&resolved}, `SELECT state FROM resolved_states WHERE room_nid = ? AND position >= ? AND position <= ?
		ORDER BY position DESC LIMIT 1`, int64(room), int64(last[0].Position), int64(p))
	switch {
	case err != nil:
		return StateMap{}, err
	case found:
		return s.Map(resolved)
	}
	return s.Behind(last[0])
}

// SetAt writes the state that a room has from a position on, which is that of its newest event. Needed where it is another
// than the one behind that event.
func (s States) SetAt(room RoomNID, p stream.Position, state StateNID) error {
	_, err := s.tx.exec(`INSERT INTO resolved_states (room_nid, position, state) VALUES (?, ?, ?)`, int64(room), int64(p), int64(state))
	return err
}

// Behind is the state behind an event, as far as its own branch of the room goes: the one before it, and what it sets unless
// it was rejected.
func (s States) Behind(e *Event) (StateMap, error) {
	m, err := s.Map(e.StateBefore)
	if err != nil || e.StateKey == nil || e.Rejected {
		return m, err
	}
	key, err := s.FindKey(e.Tuple())
	if err != nil {
		return m, err
	}
	if key == 0 {
		return m, fmt.Errorf("the state key of %s is not interned", e.ID)
	}
	return m.Set(key, e.NID), nil
}
