package store

import (
	"database/sql"
	"slices"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Invited is by how many invites a user is invited at the moment, and how many bytes are kept of them.
type Invited struct{ Count, Bytes int }

// InvitesFrom is how much a user of another server's users is invited to, other than to one room: by those of one server,
// and by those of all but the user's own.
func (s Memberships) InvitesFrom(user id.UserID, server id.ServerName, not RoomNID) (one, all Invited, err error) {
	_, err = s.tx.row([]any{&one.Count, &one.Bytes, &all.Count, &all.Bytes},
		`SELECT count(CASE WHEN server = ? THEN 1 END), CAST(coalesce(sum(CASE WHEN server = ? THEN bytes END), 0) AS BIGINT),
			count(*), CAST(coalesce(sum(bytes), 0) AS BIGINT)
		FROM memberships WHERE user_id = ? AND membership = 'invite' AND server <> ? AND room_nid <> ?`,
		string(server), string(server), string(user), string(user.Server()), int64(not))
	return one, all, err
}

// InvitesBy is how much a user is invited to by another one, other than to one room.
func (s Memberships) InvitesBy(user, sender id.UserID, not RoomNID) (w Invited, err error) {
	_, err = s.tx.row([]any{&w.Count, &w.Bytes}, `SELECT count(*), CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM memberships
		WHERE user_id = ? AND membership = 'invite' AND server = ? AND sender = ? AND room_nid <> ?`,
		string(user), string(sender.Server()), string(sender), int64(not))
	return w, err
}

// askedAtOnce is how many rooms are named in one query.
const askedAtOnce = 500

// Asked reads who invites a user to rooms, or where the user knocks, and how many bytes are kept of each, but not these. Rooms
// of other memberships are left out.
func (s Memberships) Asked(user id.UserID, rooms []RoomNID) ([]Membership, error) {
	var out []Membership
	for chunk := range slices.Chunk(rooms, askedAtOnce) {
		err := s.tx.query(func(rows *sql.Rows) error {
			m := Membership{User: user, Asked: &Asked{}}
			err := rows.Scan(&m.Room, &m.Membership, &m.Event, &m.Asked.Sender, &m.Asked.Bytes)
			out = append(out, m)
			return err
		}, `SELECT room_nid, membership, event_nid, sender, bytes FROM memberships
			WHERE user_id = ? AND room_nid IN (?) AND membership IN ('invite', 'knock') AND stripped IS NOT NULL`, string(user), bun.In(chunk))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Shown reads what a user is shown of rooms to which the user is invited, or where the user knocks: all that is kept, or
// with brief only what tells the room apart. It may be nil.
func (s Memberships) Shown(user id.UserID, rooms []RoomNID, brief bool) (map[RoomNID][]byte, error) {
	column := "stripped"
	if brief {
		column = "brief"
	}
	out := make(map[RoomNID][]byte, len(rooms))
	for chunk := range slices.Chunk(rooms, askedAtOnce) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var room RoomNID
			var shown []byte
			err := rows.Scan(&room, &shown)
			out[room] = shown
			return err
		}, `SELECT room_nid, `+column+` FROM memberships WHERE user_id = ? AND room_nid IN (?)`, string(user), bun.In(chunk))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Admits says whether a user is joined to one of some rooms that users of this server are in, and whether they are in all of
// these rooms.
func (s Memberships) Admits(user id.UserID, rooms []id.RoomID) (admitted, all bool, err error) {
	if len(rooms) == 0 {
		return false, true, nil
	}
	here := map[id.RoomID]bool{}
	err = s.tx.query(func(rows *sql.Rows) error {
		var name id.RoomID
		var joined bool
		err := rows.Scan(&name, &joined)
		here[name], admitted = true, admitted || joined
		return err
	}, `SELECT r.room_id, EXISTS (SELECT 1 FROM memberships m WHERE m.room_nid = r.nid AND m.user_id = ? AND m.membership = 'join')
		FROM rooms r WHERE r.room_id IN (?) AND EXISTS (SELECT 1 FROM memberships l WHERE l.room_nid = r.nid AND l.local AND l.membership = 'join')`,
		string(user), bun.In(rooms))
	return admitted, !slices.ContainsFunc(rooms, func(r id.RoomID) bool { return !here[r] }), err
}
