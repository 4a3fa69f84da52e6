package store

import (
	"database/sql"
	"math"

	"github.com/securecomm/securecomm/homeserver/id"
)

// ListPlace is where a room stands in the public room list, which begins with those that have the most members, and of those that
// have as many with those that came last.
type ListPlace struct {
	Members int64
	Room    RoomNID
}

// The places in front of all rooms and behind them.
var (
	ListBegin = ListPlace{math.MaxInt64, math.MaxInt64}
	ListEnd   = ListPlace{-1, 0}
)

// PublishedRoom is a room of the public room list.
type PublishedRoom struct {
	ID      id.RoomID
	Version id.RoomVersion
	Place   ListPlace
	Here    bool // users of this server are in it; others are not shown
	Summary
}

// Published reads up to limit rooms of the public room list: those behind a place, or going back those before it, the next
// one first.
func (r Rooms) Published(from ListPlace, back bool, limit int) (out []PublishedRoom, err error) {
	// With EXISTS, PostgreSQL reads who is here in all rooms.
	const head = `SELECT room_id, version, nid, coalesce((SELECT 1 FROM memberships m
		WHERE m.room_nid = rooms.nid AND m.membership = 'join' AND m.local LIMIT 1), 0) = 1, ` + summaryColumns + ` FROM rooms WHERE published AND `
	query := head + `(joined_members, nid) < (?, ?) ORDER BY joined_members DESC, nid DESC LIMIT ?`
	if back {
		query = head + `(joined_members, nid) > (?, ?) ORDER BY joined_members, nid LIMIT ?`
	}
	err = r.tx.query(func(rows *sql.Rows) error {
		var p PublishedRoom
		err := rows.Scan(append([]any{&p.ID, &p.Version, &p.Place.Room, &p.Here}, p.fields()...)...)
		p.Place.Members = p.JoinedMembers
		out = append(out, p)
		return err
	}, query, from.Members, int64(from.Room), int64(limit))
	return out, err
}

// CountPublished is how many rooms the public room list has, with those that are not shown.
func (r Rooms) CountPublished() (n int64, err error) {
	_, err = r.tx.row([]any{&n}, `SELECT count(*) FROM rooms WHERE published`)
	return n, err
}
