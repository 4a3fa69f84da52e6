package store

import (
	"database/sql"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
)

// AnyLocal says whether a user of this server is joined to a room.
func (s Memberships) AnyLocal(room RoomNID) (bool, error) {
	var one int
	return s.tx.row([]any{&one}, `SELECT 1 FROM memberships WHERE room_nid = ? AND membership = 'join' AND local LIMIT 1`, int64(room))
}

// AnyOfServer says whether a user of a server has one of some memberships in a room.
func (s Memberships) AnyOfServer(room RoomNID, server id.ServerName, memberships ...string) (bool, error) {
	var one int
	return s.tx.row([]any{&one}, `SELECT 1 FROM memberships WHERE room_nid = ? AND user_id LIKE ? ESCAPE '!' AND membership IN (?) LIMIT 1`,
		int64(room), "%:"+escapeLike(string(server)), bun.In(memberships))
}

// Mutual lists the rooms that two users are both joined to, in order of their numbers from behind one, at most limit,
// and the number of the last one.
func (s Memberships) Mutual(a, b id.UserID, after RoomNID, limit int) (rooms []id.RoomID, last RoomNID, err error) {
	err = s.tx.query(func(rows *sql.Rows) error {
		var room id.RoomID
		if err := rows.Scan(&last, &room); err != nil {
			return err
		}
		rooms = append(rooms, room)
		return nil
	}, `SELECT r.nid, r.room_id FROM memberships m JOIN memberships o ON o.room_nid = m.room_nid AND o.membership = 'join' JOIN rooms r ON r.nid = m.room_nid
		WHERE m.user_id = ? AND m.membership = 'join' AND o.user_id = ? AND r.nid > ? ORDER BY r.nid LIMIT ?`, string(a), string(b), int64(after), limit)
	return rooms, last, err
}

// CountMutual is how many rooms two users are both joined to.
func (s Memberships) CountMutual(a, b id.UserID) (int64, error) {
	var n int64
	_, err := s.tx.row([]any{&n}, `SELECT count(*) FROM memberships m JOIN memberships o ON o.room_nid = m.room_nid AND o.membership = 'join'
		WHERE m.user_id = ? AND m.membership = 'join' AND o.user_id = ?`, string(a), string(b))
	return n, err
}
