package store

import (
	"database/sql"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Missing is an event that another one follows and that we do not have.
type Missing struct {
	ID     id.EventID
	Child  EventNID
	Origin string // whose users sent the child: they may name what never was
}

// AddMissing remembers that an event's predecessor is not here.
func (s Relations) AddMissing(room RoomNID, m Missing) error {
	_, err := s.tx.exec(`INSERT INTO missing_events (room_nid, event_id, child, origin) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		int64(room), string(m.ID), int64(m.Child), m.Origin)
	return err
}

// Arrived forgets that an event was missing.
func (s Relations) Arrived(room RoomNID, eventID id.EventID) error {
	_, err := s.tx.exec(`DELETE FROM missing_events WHERE room_nid = ? AND event_id = ?`, int64(room), string(eventID))
	return err
}

const (
	// maxTries is how often it is tried to fetch a missing event before it rests, and restFor how long it rests between later tries.
	maxTries = 8
	restFor  = 10 * time.Minute
	// maxOfOrigin is how many missing events of one origin are listed, and maxChildren how many events that follow those listed.
	maxOfOrigin = 2
	maxChildren = 50
)

// Missing lists events that a room lacks, at most limit, with what follows them: those that are not resting. First come those
// of origins whose missing events were tried in vain least often, of one origin those that were, and of equals what
// leads furthest back.
func (s Relations) Missing(room RoomNID, limit int, now time.Time) ([]Missing, error) {
	var order []id.EventID
	err := s.tx.query(func(rows *sql.Rows) error {
		var i id.EventID
		if err := rows.Scan(&i); err != nil {
			return err
		}
		if !slices.Contains(order, i) {
			order = append(order, i)
		}
		return nil
	}, `SELECT event_id FROM (
			SELECT m.event_id, m.tries, m.tried, e.position, sum(m.tries) OVER (PARTITION BY m.origin) AS vain,
				row_number() OVER (PARTITION BY m.origin ORDER BY m.tries, coalesce(e.position, ?), m.event_id, m.child) AS place
			FROM missing_events m JOIN events e ON e.nid = m.child WHERE m.room_nid = ?
		) AS gaps WHERE place <= ? AND (tries < ? OR tried < ? OR tried > ?) ORDER BY vain, coalesce(position, ?), event_id LIMIT ?`,
		unplaced, int64(room), maxOfOrigin, maxTries, now.Add(-restFor).UnixMilli(), now.UnixMilli(), unplaced, limit)
	if err != nil || len(order) == 0 {
		return nil, err
	}
	var out []Missing
	err = s.tx.query(func(rows *sql.Rows) error {
		var m Missing
		if err := rows.Scan(&m.ID, &m.Child, &m.Origin); err != nil {
			return err
		}
		out = append(out, m)
		return nil
	}, `SELECT event_id, child, origin FROM missing_events WHERE room_nid = ? AND event_id IN (?) ORDER BY child DESC LIMIT ?`,
		int64(room), bun.In(plainIDs(order)), maxChildren)
	slices.SortStableFunc(out, func(a, b Missing) int { return slices.Index(order, a.ID) - slices.Index(order, b.ID) })
	return out, err
}

// unplaced stands for the position of events that have none: behind all.
const unplaced int64 = 1 << 60

// Tried notes that missing events were asked for in vain.
func (s Relations) Tried(room RoomNID, ids []id.EventID, now time.Time) error {
	_, err := s.tx.exec(`UPDATE missing_events SET tries = tries + 1, tried = ? WHERE room_nid = ? AND event_id IN (?)`,
		now.UnixMilli(), int64(room), bun.In(plainIDs(ids)))
	return err
}
