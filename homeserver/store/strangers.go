package store

import (
	"database/sql"
	"slices"
	"strings"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Stranger is a user of another server who is joined to a room.
type Stranger struct {
	User  id.UserID
	Room  RoomNID
	Event EventNID // the member event
}

// strangersAtOnce is of how many rooms StrangersIn reads at a time; each statement has as many, so that it stays prepared.
const strangersAtOnce = 16

// StrangersIn lists users of other servers who are in some rooms, which are ordered by size, the smallest first: all together
// read about as many rows as may be, and small rooms leave what they do not need to the larger ones. Of those that have more,
// the latest are listed, and more is true.
func (s Profiles) StrangersIn(rooms []RoomNID, most int) (out []Stranger, more bool, err error) {
	const one = `SELECT * FROM (SELECT user_id, room_nid, event_nid FROM memberships
		WHERE room_nid = ? AND membership = 'join' AND NOT local ORDER BY position DESC LIMIT ?) AS room`
	query := one + strings.Repeat(` UNION ALL `+one, strangersAtOnce-1)
	for left := rooms; len(left) > 0; {
		some := left[:min(len(left), strangersAtOnce)]
		each := max(1, (most-len(out))/len(left))
		left = left[len(some):]
		args := make([]any, 0, 2*strangersAtOnce)
		for _, room := range some {
			args = append(args, int64(room), int64(each+1))
		}
		for len(args) < cap(args) {
			args = append(args, int64(0), int64(0))
		}
		found, err := s.strangers(query, args...)
		if err != nil {
			return nil, false, err
		}
		of := map[RoomNID]int{}
		for _, f := range found {
			if of[f.Room]++; of[f.Room] > each {
				more = true
				continue
			}
			out = append(out, f)
		}
	}
	return out, more, nil
}

// StrangersBy lists users of other servers whose ID begins so and who share a room with somebody or are in one that is open
// to all. It looks at up to limit memberships, and more says that there are further ones.
func (s Profiles) StrangersBy(searcher id.UserID, prefix string, limit int) (out []Stranger, more bool, err error) {
	order := bytewise(s.tx.db.postgres)
	read := 0
	err = s.tx.query(func(rows *sql.Rows) error {
		var f Stranger
		var known bool
		err := rows.Scan(&f.User, &f.Room, &f.Event, &known)
		if read++; known {
			out = append(out, f)
		}
		return err
	}, `SELECT o.user_id, o.room_nid, o.event_nid, CASE WHEN `+knownRoom+` THEN TRUE ELSE FALSE END FROM (
		SELECT user_id, room_nid, event_nid, membership FROM memberships
			WHERE user_id`+order+` >= ? AND user_id`+order+` < ? AND membership = 'join' AND NOT local ORDER BY user_id`+order+` LIMIT ?) AS o
		JOIN rooms r ON r.nid = o.room_nid`, string(searcher), prefix, prefix+"\U0010FFFF", int64(limit))
	return out, read >= limit, err
}

func (s Profiles) strangers(query string, args ...any) ([]Stranger, error) {
	var out []Stranger
	err := s.tx.query(func(rows *sql.Rows) error {
		var f Stranger
		if err := rows.Scan(&f.User, &f.Room, &f.Event); err != nil {
			return err
		}
		out = append(out, f)
		return nil
	}, query, args...)
	return out, err
}

// KnownRooms lists up to limit rooms that a user is in, the smallest ones, and up to open of those that are open to all, the
// largest ones; both with the smallest first.
func (s Profiles) KnownRooms(user id.UserID, limit, open int) (own, others []RoomNID, err error) {
	own, err = s.rooms(`SELECT r.nid FROM memberships m JOIN rooms r ON r.nid = m.room_nid WHERE m.user_id = ? AND m.membership = 'join'
		ORDER BY r.joined_members, r.nid LIMIT ?`, string(user), int64(limit))
	if err != nil {
		return nil, nil, err
	}
	others, err = s.rooms(`SELECT r.nid FROM rooms r WHERE `+openRoom+` ORDER BY r.joined_members DESC, r.nid DESC LIMIT ?`, int64(open))
	slices.Reverse(others)
	return own, others, err
}

func (s Profiles) rooms(query string, args ...any) ([]RoomNID, error) {
	var out []RoomNID
	err := s.tx.query(func(rows *sql.Rows) error {
		var room RoomNID
		err := rows.Scan(&room)
		out = append(out, room)
		return err
	}, query, args...)
	return out, err
}
