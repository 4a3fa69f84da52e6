package store

import (
	"database/sql"
	"errors"
	"time"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Purge of rooms that no user of this server is in or remembers. They are listed by Forget, or when a room is made
// that nobody is in yet; MarkUnwanted, the first phase, takes those off the list that somebody wants; BeginPurge, some
// time later, empties the room's head, and PurgeSome deletes the rest in small steps. Who brings a user into a room
// calls Wanted before, which holds the second phase off for a while, or is told to come again when it is over.

// ErrPurging says that a room is just being deleted here.
var ErrPurging = errors.New("what is known of the room is being deleted; try again later")

// UnwantedRoom is a room that perhaps nobody here wants any longer.
type UnwantedRoom struct {
	NID     RoomNID
	Purging bool
}

// Unwanted notes that a room may have lost its last user here.
func (r Rooms) Unwanted(nid RoomNID) error {
	_, err := r.tx.exec(`INSERT INTO unwanted_rooms (room_nid) VALUES (?) ON CONFLICT DO NOTHING`, int64(nid))
	return err
}

// Wanted is to be called before a user comes into a room that perhaps nobody here is in. Errors: ErrPurging.
func (r Rooms) Wanted(nid RoomNID) error {
	var purging bool
	found, err := r.tx.row([]any{&purging}, `UPDATE unwanted_rooms SET marked_at = 0 WHERE room_nid = ? RETURNING purging`, int64(nid))
	if err != nil {
		return err
	}
	if found && purging {
		return ErrPurging
	}
	// Another process may have deleted events that this one remembers.
	var purges int64
	if _, err := r.tx.row([]any{&purges}, `SELECT value FROM counters WHERE name = 'purges'`); err != nil {
		return err
	}
	if db := r.tx.db; db.purges.Swap(purges) != purges {
		db.cache.events.InvalidateAll()
		db.cache.eventIDs.InvalidateAll()
	}
	return nil
}

// ListUnwanted lists rooms that Unwanted noted, at most limit: those not marked yet, or those marked at or before a time
// unless it is zero.
func (r Rooms) ListUnwanted(marked time.Time, limit int) ([]UnwantedRoom, error) {
	where := `marked_at = ?`
	at := int64(0)
	if !marked.IsZero() {
		where, at = `marked_at > 0 AND marked_at <= ?`, marked.UnixMilli()
	}
	var out []UnwantedRoom
	err := r.tx.query(func(rows *sql.Rows) error {
		var u UnwantedRoom
		if err := rows.Scan(&u.NID, &u.Purging); err != nil {
			return err
		}
		out = append(out, u)
		return nil
	}, `SELECT room_nid, purging FROM unwanted_rooms WHERE `+where+` ORDER BY marked_at, room_nid LIMIT ?`, at, limit)
	return out, err
}

// kept says whether a user of this server is in a room, or was and has not forgotten it.
func (r Rooms) kept(nid RoomNID) (bool, error) {
	var one int
	return r.tx.row([]any{&one}, `SELECT 1 FROM memberships WHERE room_nid = ? AND local AND NOT forgotten LIMIT 1`, int64(nid))
}

// MarkUnwanted marks a room if nobody here wants it, and takes it off the list otherwise.
func (r Rooms) MarkUnwanted(nid RoomNID, now time.Time) error {
	kept, err := r.kept(nid)
	if err != nil {
		return err
	}
	if kept {
		_, err = r.tx.exec(`DELETE FROM unwanted_rooms WHERE room_nid = ? AND NOT purging`, int64(nid))
		return err
	}
	_, err = r.tx.exec(`UPDATE unwanted_rooms SET marked_at = ? WHERE room_nid = ?`, now.UnixMilli(), int64(nid))
	return err
}

// AwaitsDelivery says whether an event of a room still waits for another server. It looks at all that waits: use it in
// a View.
func (r Rooms) AwaitsDelivery(nid RoomNID) (bool, error) {
	var one int
	return r.tx.row([]any{&one}, `SELECT 1 FROM outbox o JOIN events e ON e.nid = o.event_nid WHERE e.room_nid = ? LIMIT 1`, int64(nid))
}

// BeginPurge empties the head of a room that was marked at or before a time and that nobody wants; false if somebody
// does after all. Whoever writes to the room from now on finds that its head has moved.
func (r Rooms) BeginPurge(nid RoomNID, marked time.Time) (bool, error) {
	n, err := r.tx.exec(`UPDATE unwanted_rooms SET purging = TRUE WHERE room_nid = ? AND marked_at > 0 AND marked_at <= ?`, int64(nid), marked.UnixMilli())
	if err != nil || n == 0 {
		return false, err
	}
	if kept, err := r.kept(nid); err != nil || kept {
		if err == nil {
			_, err = r.tx.exec(`DELETE FROM unwanted_rooms WHERE room_nid = ?`, int64(nid))
		}
		return false, err
	}
	if _, err := r.tx.exec(`UPDATE room_heads SET seq = seq + 1, state = 0, extremities = ? WHERE room_nid = ?`, encodeExtremities(nil), int64(nid)); err != nil {
		return false, err
	}
	if err := r.SetSummary(nid, Summary{JoinRule: "invite", HistoryVisibility: "shared", GuestAccess: "forbidden"}); err != nil {
		return false, err
	}
	return true, r.SetPublished(nid, false)
}

// purged are the tables that hold rows of rooms, each with an index by room_nid. Events and states are treated on their own.
var purged = []string{"further_ends", "relations", "relation_groups", "thread_senders", "pending_redactions", "missing_events", "receipts", "membership_log", "memberships", "pending_invites", "resolved_states"}

// PurgeSome deletes some more of a room whose purge has begun, at most limit rows, and returns false once all is gone.
func (r Rooms) PurgeSome(nid RoomNID, limit int) (more bool, err error) {
	for _, table := range purged {
		n, err := r.tx.exec(deleteSome(r.tx.db.postgres, table, `room_nid = ?`), int64(nid), limit)
		if err != nil || n > 0 {
			return n > 0, err
		}
	}
	for _, where := range []string{`position IS NOT NULL`, `position IS NULL`} {
		if n, err := r.purgeEvents(nid, where, limit); err != nil || n > 0 {
			return n > 0, err
		}
	}
	n, err := r.purgeStates(nid, limit)
	if err != nil || n > 0 {
		return n > 0, err
	}
	return false, r.endPurge(nid)
}

func (r Rooms) purgeEvents(nid RoomNID, where string, limit int) (int, error) {
	var nids []EventNID
	var ids []id.EventID
	err := r.tx.query(func(rows *sql.Rows) error {
		var n EventNID
		var eventID id.EventID
		if err := rows.Scan(&n, &eventID); err != nil {
			return err
		}
		nids, ids = append(nids, n), append(ids, eventID)
		return nil
	}, `DELETE FROM events WHERE nid IN (SELECT nid FROM events WHERE room_nid = ? AND `+where+` LIMIT ?) RETURNING nid, event_id`, int64(nid), limit)
	if err != nil {
		return 0, err
	}
	r.tx.AfterCommit(func() {
		for i, n := range nids {
			r.tx.db.cache.events.Invalidate(n)
			r.tx.db.cache.eventIDs.Invalidate(ids[i])
		}
	})
	return len(nids), nil
}

func (r Rooms) purgeStates(nid RoomNID, limit int) (int, error) {
	gone, err := r.tx.States.numbers(`DELETE FROM state_snapshots WHERE nid IN (SELECT nid FROM state_snapshots WHERE room_nid = ? LIMIT ?) RETURNING nid`,
		int64(nid), limit)
	if err != nil || len(gone) == 0 {
		return 0, err
	}
	r.tx.States.forget(gone)
	_, err = r.tx.exec(`DELETE FROM unused_states WHERE nid IN (?)`, bun.In(plainStates(gone)))
	return len(gone), err
}

func (r Rooms) endPurge(nid RoomNID) error {
	if _, err := r.tx.exec(`DELETE FROM unwanted_rooms WHERE room_nid = ?`, int64(nid)); err != nil {
		return err
	}
	var purges int64
	if _, err := r.tx.row([]any{&purges}, `UPDATE counters SET value = value + 1 WHERE name = 'purges' RETURNING value`); err != nil {
		return err
	}
	// This process has forgotten the room's events already, unless it missed another purge.
	r.tx.AfterCommit(func() { r.tx.db.purges.CompareAndSwap(purges-1, purges) })
	return nil
}
