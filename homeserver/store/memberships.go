package store

import (
	"database/sql"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// Membership is the current membership of a user in a room.
type Membership struct {
	Room       RoomNID
	RoomID     id.RoomID // only in answers of ByUser
	User       id.UserID
	Membership string // "join", "invite", "leave", "ban" or "knock"
	Event      EventNID
	Position   stream.Position // where it became so
	Forgotten  bool
	// Asked is of invites and knocks. It is written with them, and read by Memberships.Asked alone.
	Asked *Asked
	// Via is the server through which the user was invited, or knocked, in a room that this server is not in.
	Via id.ServerName
}

// Asked is what is kept of an invite or a knock for the user's clients.
type Asked struct {
	Sender   id.UserID // empty in rows of before it was kept
	Bytes    int       // of the event and the stripped state
	Stripped []byte    // the JSON array of stripped state
	Brief    []byte    // the same with no more than what tells the room apart
}

// MembershipChange is a change of a local user's membership.
type MembershipChange struct {
	Position           stream.Position
	Room               RoomNID
	RoomID             id.RoomID
	User               id.UserID
	Membership, Former string
	Event              EventNID
}

// Memberships are the current memberships of users in rooms, and the former ones of local users.
type Memberships struct{ tx *Tx }

// Set writes a membership at a position; call it from the write function of Tx.Log, or with the position of a known event.
func (s Memberships) Set(m Membership, former string, local bool) error {
	var stripped, brief any
	var asked Asked
	if m.Asked != nil {
		asked, stripped, brief = *m.Asked, m.Asked.Stripped, m.Asked.Brief
	}
	_, err := s.tx.exec(`INSERT INTO memberships (room_nid, user_id, membership, event_nid, position, local, sender, server, bytes, stripped, brief, via)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (room_nid, user_id) DO UPDATE SET membership = excluded.membership,
		event_nid = excluded.event_nid, position = excluded.position, forgotten = FALSE, sender = excluded.sender, server = excluded.server,
		bytes = excluded.bytes, stripped = excluded.stripped, brief = excluded.brief, via = excluded.via`,
		int64(m.Room), string(m.User), m.Membership, int64(m.Event), int64(m.Position), local,
		string(asked.Sender), string(asked.Sender.Server()), asked.Bytes, stripped, brief, string(m.Via))
	if err != nil || !local {
		return err
	}
	_, err = s.tx.exec(`INSERT INTO membership_log (position, room_nid, user_id, membership, former, event_nid) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (position, user_id) DO UPDATE SET membership = excluded.membership, event_nid = excluded.event_nid`,
		int64(m.Position), int64(m.Room), string(m.User), m.Membership, former, int64(m.Event))
	return err
}

// Get reads the membership of a user in a room; empty if there never was one.
func (s Memberships) Get(room RoomNID, user id.UserID) (Membership, error) {
	m := Membership{Room: room, User: user}
	_, err := s.tx.row([]any{&m.Membership, &m.Event, &m.Position, &m.Forgotten, &m.Via},
		`SELECT membership, event_nid, position, forgotten, via FROM memberships WHERE room_nid = ? AND user_id = ?`, int64(room), string(user))
	return m, err
}

// ByUser lists the rooms of a user with one of the memberships given; all if none is given.
func (s Memberships) ByUser(user id.UserID, memberships ...string) ([]Membership, error) {
	var out []Membership
	err := s.tx.query(func(rows *sql.Rows) error {
		m := Membership{User: user}
		if err := rows.Scan(&m.Room, &m.RoomID, &m.Membership, &m.Event, &m.Position, &m.Forgotten); err != nil {
			return err
		}
		for _, want := range memberships {
			if want == m.Membership {
				out = append(out, m)
			}
		}
		if len(memberships) == 0 {
			out = append(out, m)
		}
		return nil
	}, `SELECT m.room_nid, r.room_id, m.membership, m.event_nid, m.position, m.forgotten
		FROM memberships m JOIN rooms r ON r.nid = m.room_nid WHERE m.user_id = ? ORDER BY m.room_nid`, string(user))
	return out, err
}

// Users lists the users of a room with a membership.
func (s Memberships) Users(room RoomNID, membership string) ([]id.UserID, error) {
	return s.users(`SELECT user_id FROM memberships WHERE room_nid = ? AND membership = ? ORDER BY user_id`, int64(room), membership)
}

// LocalUsers lists the users of this server who are joined to a room.
func (s Memberships) LocalUsers(room RoomNID) ([]id.UserID, error) {
	return s.users(`SELECT user_id FROM memberships WHERE room_nid = ? AND membership = 'join' AND local ORDER BY user_id`, int64(room))
}

// Sharing lists the users, local or not, who are joined to a room that a user is joined to; the user too, if joined anywhere.
func (s Memberships) Sharing(user id.UserID) ([]id.UserID, error) {
	return s.users(`SELECT DISTINCT o.user_id FROM memberships m JOIN memberships o ON o.room_nid = m.room_nid AND o.membership = 'join'
		WHERE m.user_id = ? AND m.membership = 'join' ORDER BY o.user_id`, string(user))
}

// SharesSince says whether somebody has joined a room behind a position that a user is joined to, or the user has. Others'
// changes since are few, so that it is quick.
func (s Memberships) SharesSince(user id.UserID, p stream.Position) (bool, error) {
	var one int
	return s.tx.row([]any{&one}, `SELECT 1 FROM memberships o WHERE o.position > ? AND o.membership = 'join' AND EXISTS (
		SELECT 1 FROM memberships m WHERE m.room_nid = o.room_nid AND m.user_id = ? AND m.membership = 'join') LIMIT 1`, int64(p), string(user))
}

// OfServer lists the users of a server who have or had any membership in a room.
func (s Memberships) OfServer(room RoomNID, server id.ServerName) ([]id.UserID, error) {
	users, err := s.users(`SELECT user_id FROM memberships WHERE room_nid = ? AND user_id LIKE ? ESCAPE '!' ORDER BY user_id`,
		int64(room), "%:"+escapeLike(string(server)))
	// The pattern lets through servers whose port is that name, and on SQLite other letter cases.
	return slices.DeleteFunc(users, func(u id.UserID) bool { return u.Server() != server }), err
}

func (s Memberships) users(query string, args ...any) ([]id.UserID, error) {
	var out []id.UserID
	err := s.tx.query(func(rows *sql.Rows) error {
		var u id.UserID
		if err := rows.Scan(&u); err != nil {
			return err
		}
		out = append(out, u)
		return nil
	}, query, args...)
	return out, err
}

// ShareRoom says whether two users are joined to a common room.
func (s Memberships) ShareRoom(a, b id.UserID) (bool, error) {
	var one int
	return s.tx.row([]any{&one}, `SELECT 1 FROM memberships m JOIN memberships o ON o.room_nid = m.room_nid AND o.membership = 'join'
		WHERE m.user_id = ? AND m.membership = 'join' AND o.user_id = ? LIMIT 1`, string(a), string(b))
}

// Changes lists the changes of a user's memberships in from < p <= to, in order.
func (s Memberships) Changes(user id.UserID, from, to stream.Position) ([]MembershipChange, error) {
	return s.changes(`WHERE l.user_id = ? AND l.position > ? AND l.position <= ? ORDER BY l.position`, string(user), int64(from), int64(to))
}

// History lists the changes of a user's membership in a room, in order.
func (s Memberships) History(room RoomNID, user id.UserID) ([]MembershipChange, error) {
	return s.changes(`WHERE l.user_id = ? AND l.room_nid = ? ORDER BY l.position`, string(user), int64(room))
}

func (s Memberships) changes(where string, args ...any) ([]MembershipChange, error) {
	var out []MembershipChange
	err := s.tx.query(func(rows *sql.Rows) error {
		var c MembershipChange
		if err := rows.Scan(&c.Position, &c.Room, &c.RoomID, &c.User, &c.Membership, &c.Former, &c.Event); err != nil {
			return err
		}
		out = append(out, c)
		return nil
	}, `SELECT l.position, l.room_nid, r.room_id, l.user_id, l.membership, l.former, l.event_nid
		FROM membership_log l JOIN rooms r ON r.nid = l.room_nid `+where, args...)
	return out, err
}

// Forget hides a room that a user has left from that user. Once all users of this server have forgotten it, it goes.
func (s Memberships) Forget(room RoomNID, user id.UserID) error {
	if _, err := s.tx.exec(`UPDATE memberships SET forgotten = TRUE WHERE room_nid = ? AND user_id = ?`, int64(room), string(user)); err != nil {
		return err
	}
	return s.tx.Rooms.Unwanted(room)
}

// ForgetLeft is Forget for rooms that a user has left or is banned from, at most limit, and returns of how many.
func (s Memberships) ForgetLeft(user id.UserID, limit int) (int64, error) {
	var rooms []any
	err := s.tx.query(func(rows *sql.Rows) error {
		var room int64
		err := rows.Scan(&room)
		rooms = append(rooms, room)
		return err
	}, `UPDATE memberships SET forgotten = TRUE WHERE user_id = ? AND room_nid IN (
		SELECT room_nid FROM memberships WHERE user_id = ? AND membership IN ('leave', 'ban') AND NOT forgotten LIMIT ?) RETURNING room_nid`,
		string(user), string(user), limit)
	if err == nil && len(rooms) > 0 {
		_, err = s.tx.exec(`INSERT INTO unwanted_rooms (room_nid) VALUES `+places(len(rooms), 1)+` ON CONFLICT DO NOTHING`, rooms...)
	}
	return int64(len(rooms)), err
}

// ForgottenBy lists the rooms that a user has left and forgotten.
func (s Memberships) ForgottenBy(user id.UserID) (map[RoomNID]bool, error) {
	out := map[RoomNID]bool{}
	err := s.tx.query(func(rows *sql.Rows) error {
		var room RoomNID
		err := rows.Scan(&room)
		out[room] = true
		return err
	}, `SELECT room_nid FROM memberships WHERE user_id = ? AND forgotten`, string(user))
	return out, err
}

// Heroes lists the users of a room, other than one, who are joined or invited, or else those who were, the first ones first.
func (s Memberships) Heroes(room RoomNID, not id.UserID, present bool, limit int) ([]id.UserID, error) {
	which := `membership IN ('join', 'invite')`
	if !present {
		which = `membership IN ('leave', 'ban')`
	}
	return s.users(`SELECT user_id FROM memberships WHERE room_nid = ? AND user_id <> ? AND `+which+` ORDER BY position, user_id LIMIT ?`,
		int64(room), string(not), limit)
}
