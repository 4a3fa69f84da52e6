package store

import (
	"database/sql"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Report is what a user reported: an event with its room and sender, a room, or a user.
type Report struct {
	Reporter id.UserID
	Room     id.RoomID
	Event    id.EventID
	User     id.UserID
	Reason   string
	At       time.Time
}

// Reports are what users reported to the administrators.
type Reports struct{ tx *Tx }

// Put keeps a report instead of a former one of the same, and of its reporter's the newest up to a limit.
func (s Reports) Put(r Report, limit int) error {
	_, err := s.tx.exec(`INSERT INTO reports (reporter, room_id, event_id, user_id, reason, at) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (reporter, room_id, event_id, user_id) DO UPDATE SET reason = excluded.reason, at = excluded.at`,
		string(r.Reporter), string(r.Room), string(r.Event), string(r.User), r.Reason, r.At.UnixMilli())
	if err != nil {
		return err
	}
	_, err = s.tx.exec(`DELETE FROM reports WHERE reporter = ? AND at < (SELECT at FROM reports WHERE reporter = ? ORDER BY at DESC LIMIT 1 OFFSET ?)`,
		string(r.Reporter), string(r.Reporter), limit-1)
	return err
}

// List reads reports, the newest first.
func (s Reports) List(limit int) ([]Report, error) {
	var out []Report
	err := s.tx.query(func(rows *sql.Rows) error {
		var r Report
		var at int64
		if err := rows.Scan(&r.Reporter, &r.Room, &r.Event, &r.User, &r.Reason, &at); err != nil {
			return err
		}
		r.At = time.UnixMilli(at)
		out = append(out, r)
		return nil
	}, `SELECT reporter, room_id, event_id, user_id, reason, at FROM reports ORDER BY at DESC, reporter, room_id, event_id, user_id LIMIT ?`, limit)
	return out, err
}

// Prune forgets what was reported before a time, at most limit reports, and returns how many.
func (s Reports) Prune(before time.Time, limit int) (int64, error) {
	return s.tx.exec(deleteSome(s.tx.db.postgres, "reports", `at < ?`), before.UnixMilli(), limit)
}
