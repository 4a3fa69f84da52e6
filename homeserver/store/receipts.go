package store

import (
	"database/sql"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// Receipt says how far a user has read in a room.
type Receipt struct {
	Room     RoomNID
	User     id.UserID
	Type     string     // "m.read" or "m.read.private"
	Thread   string     // empty: whatever the thread; "main", or the ID of the event at the root of a thread
	Event    id.EventID // up to and including it
	EventAt  stream.Position
	TS       int64 // milliseconds since 1970
	Position stream.Position
}

// Receipts are the newest receipts of each user.
type Receipts struct{ tx *Tx }

// Set logs a receipt and lets it replace the user's former one of the same type and thread.
func (s Receipts) Set(r Receipt, room id.RoomID, wake []id.UserID) {
	s.tx.Log(stream.Change{Kind: stream.Receipt, Room: room, User: r.User, Wake: wake}, func(p stream.Position) error {
		_, err := s.tx.exec(`INSERT INTO receipts (room_nid, user_id, type, thread, event_id, event_at, ts, position) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (room_nid, user_id, type, thread) DO UPDATE SET event_id = excluded.event_id, event_at = excluded.event_at,
			ts = excluded.ts, position = excluded.position`,
			int64(r.Room), string(r.User), r.Type, r.Thread, string(r.Event), int64(r.EventAt), r.TS, int64(p))
		return err
	})
}

// Get reads a receipt; false if there is none.
func (s Receipts) Get(room RoomNID, user id.UserID, typ, thread string) (Receipt, bool, error) {
	list, err := s.list(`WHERE room_nid = ? AND user_id = ? AND type = ? AND thread = ?`, int64(room), string(user), typ, thread)
	if err != nil || len(list) == 0 {
		return Receipt{}, false, err
	}
	return list[0], true, nil
}

// CountThreads is how many receipts a user has in a room.
func (s Receipts) CountThreads(room RoomNID, user id.UserID) (int, error) {
	var n int
	_, err := s.tx.row([]any{&n}, `SELECT count(*) FROM receipts WHERE room_nid = ? AND user_id = ?`, int64(room), string(user))
	return n, err
}

// ByUser lists the receipts of a user in a room.
func (s Receipts) ByUser(room RoomNID, user id.UserID) ([]Receipt, error) {
	return s.list(`WHERE room_nid = ? AND user_id = ?`, int64(room), string(user))
}

// Changed lists the receipts of a room that were written in from < p <= to, the newest first, at most limit.
func (s Receipts) Changed(room RoomNID, from, to stream.Position, limit int) ([]Receipt, error) {
	return s.list(`WHERE room_nid = ? AND position > ? AND position <= ? ORDER BY position DESC LIMIT ?`, int64(room), int64(from), int64(to), limit)
}

// Rooms lists the rooms that a user is joined to and that got receipts in from < p <= to.
func (s Receipts) Rooms(user id.UserID, from, to stream.Position) ([]RoomNID, error) {
	var out []RoomNID
	err := s.tx.query(func(rows *sql.Rows) error {
		var n RoomNID
		if err := rows.Scan(&n); err != nil {
			return err
		}
		out = append(out, n)
		return nil
	}, `SELECT m.room_nid FROM memberships m WHERE m.user_id = ? AND m.membership = 'join'
		AND EXISTS (SELECT 1 FROM receipts r WHERE r.room_nid = m.room_nid AND r.position > ? AND r.position <= ?)`,
		string(user), int64(from), int64(to))
	return out, err
}

func (s Receipts) list(where string, args ...any) ([]Receipt, error) {
	var out []Receipt
	err := s.tx.query(func(rows *sql.Rows) error {
		var r Receipt
		if err := rows.Scan(&r.Room, &r.User, &r.Type, &r.Thread, &r.Event, &r.EventAt, &r.TS, &r.Position); err != nil {
			return err
		}
		out = append(out, r)
		return nil
	}, `SELECT room_nid, user_id, type, thread, event_id, event_at, ts, position FROM receipts `+where, args...)
	return out, err
}
