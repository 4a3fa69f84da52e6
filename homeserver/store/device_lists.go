package store

import (
	"database/sql"
	"slices"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// DeviceList says where the list of a user's devices stands.
type DeviceList struct {
	StreamID int64           // of the last update sent; of remote users: received, 0 if not known
	Position stream.Position // of the last change
	CachedAt stream.Position // of remote users: the position before the list was fetched; 0 if it is not cached
}

// DeviceLists say when whose devices or cross-signing keys changed, and which lists of remote users are cached.
type DeviceLists struct{ tx *Tx }

// Get reads where a user's list stands.
func (s DeviceLists) Get(user id.UserID) (DeviceList, error) {
	var l DeviceList
	_, err := s.tx.row([]any{&l.StreamID, &l.Position, &l.CachedAt}, `SELECT stream_id, position, cached_at FROM device_lists WHERE user_id = ?`, string(user))
	return l, err
}

// Positions reads when the lists of users changed last; those that never did are missing.
func (s DeviceLists) Positions(users []id.UserID) (map[id.UserID]stream.Position, error) {
	out := make(map[id.UserID]stream.Position, len(users))
	for chunk := range slices.Chunk(users, 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var u id.UserID
			var p stream.Position
			if err := rows.Scan(&u, &p); err != nil {
				return err
			}
			out[u] = p
			return nil
		}, `SELECT user_id, position FROM device_lists WHERE user_id IN (?)`, bun.In(chunk))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// NextStreamID numbers an update of a local user's list for other servers, and returns the number before, too. Other
// servers keep the highest, so it must not come again.
func (s DeviceLists) NextStreamID(user id.UserID) (before, number int64, err error) {
	if _, err = s.tx.row([]any{&before}, `SELECT stream_id FROM device_lists WHERE user_id = ?`, string(user)); err != nil {
		return 0, 0, err
	}
	number = beyond(before)
	_, err = s.tx.exec(`INSERT INTO device_lists (user_id, local, stream_id) VALUES (?, TRUE, ?)
		ON CONFLICT (user_id) DO UPDATE SET stream_id = excluded.stream_id`, string(user), number)
	return before, number, err
}

// Log logs that the list of a user changed. Wake names the local users who may see the list.
func (s DeviceLists) Log(user id.UserID, local bool, wake []id.UserID) {
	s.tx.Log(stream.Change{Kind: stream.DeviceList, User: user, Wake: wake}, func(p stream.Position) error {
		_, err := s.tx.exec(`INSERT INTO device_lists (user_id, local, position) VALUES (?, ?, ?)
			ON CONFLICT (user_id) DO UPDATE SET position = excluded.position`, string(user), local, int64(p))
		return err
	})
}

// Changed lists the users whose lists changed last in from < p <= to and who share a room with a user, or
// whose master key the user signed then. The user counts as sharing.
func (s DeviceLists) Changed(user id.UserID, from, to stream.Position) ([]id.UserID, error) {
	return s.tx.Memberships.users(`SELECT user_id FROM device_lists l WHERE position > ? AND position <= ? AND (user_id = ? OR EXISTS (
			SELECT 1 FROM memberships m JOIN memberships o ON o.room_nid = m.room_nid AND o.membership = 'join'
			WHERE m.user_id = ? AND m.membership = 'join' AND o.user_id = l.user_id))
		UNION SELECT target FROM user_signatures WHERE signer = ? AND position > ? AND position <= ?
		ORDER BY 1`, int64(from), int64(to), string(user), string(user), string(user), int64(from), int64(to))
}

// Moved is a user whose membership in a room of someone else changed.
type Moved struct {
	User       id.UserID
	Membership string // what it is now
}

// Moved lists the users whose memberships in the rooms that a user is joined to changed last in
// from < p <= to. Changes of their profiles count as well.
func (s DeviceLists) Moved(user id.UserID, from, to stream.Position) ([]Moved, error) {
	var out []Moved
	err := s.tx.query(func(rows *sql.Rows) error {
		var m Moved
		if err := rows.Scan(&m.User, &m.Membership); err != nil {
			return err
		}
		out = append(out, m)
		return nil
	}, `SELECT DISTINCT o.user_id, o.membership FROM memberships o JOIN memberships m ON m.room_nid = o.room_nid
		WHERE o.position > ? AND o.position <= ? AND m.user_id = ? AND m.membership = 'join' ORDER BY o.user_id`,
		int64(from), int64(to), string(user))
	return out, err
}

// Joined lists those of some local users who became joined to a room in from < p <= to.
func (s DeviceLists) Joined(users []id.UserID, from, to stream.Position) (map[id.UserID]bool, error) {
	return s.subset(users, `SELECT DISTINCT user_id FROM membership_log WHERE user_id IN (?) AND position > ? AND position <= ?
		AND membership = 'join' AND former <> 'join'`, int64(from), int64(to))
}

// SharingWith lists those of some users who are joined to a room that a user is joined to.
func (s DeviceLists) SharingWith(users []id.UserID, user id.UserID) (map[id.UserID]bool, error) {
	return s.subset(users, `SELECT DISTINCT o.user_id FROM memberships o JOIN memberships m ON m.room_nid = o.room_nid
		WHERE o.user_id IN (?) AND o.membership = 'join' AND m.user_id = ? AND m.membership = 'join'`, string(user))
}

// Followed lists those of some remote users who are joined to a room with a local user: whose servers tell
// us of changes.
func (s DeviceLists) Followed(users []id.UserID) (map[id.UserID]bool, error) {
	return s.subset(users, `SELECT DISTINCT m.user_id FROM memberships m WHERE m.user_id IN (?) AND m.membership = 'join' AND EXISTS (
		SELECT 1 FROM memberships o WHERE o.room_nid = m.room_nid AND o.local AND o.membership = 'join')`)
}

// Cached lists those of some remote users whose list is cached and has been followed without a gap since
// it was fetched.
func (s DeviceLists) Cached(users []id.UserID) (map[id.UserID]bool, error) {
	return s.subset(users, `SELECT DISTINCT l.user_id FROM device_lists l JOIN memberships m ON m.user_id = l.user_id
		WHERE l.user_id IN (?) AND l.cached_at > 0 AND m.membership = 'join' AND m.position <= l.cached_at AND EXISTS (
			SELECT 1 FROM memberships o WHERE o.room_nid = m.room_nid AND o.local AND o.membership = 'join' AND o.position <= l.cached_at)`)
}

// subset runs a query whose first argument is a list of users and which selects some of them.
func (s DeviceLists) subset(users []id.UserID, text string, args ...any) (map[id.UserID]bool, error) {
	out := make(map[id.UserID]bool, len(users))
	for chunk := range slices.Chunk(users, 500) {
		some, err := s.tx.Memberships.users(text, append([]any{bun.In(chunk)}, args...)...)
		if err != nil {
			return nil, err
		}
		for _, u := range some {
			out[u] = true
		}
	}
	return out, nil
}

// SetCached notes that the list of a remote user has been cached.
func (s DeviceLists) SetCached(user id.UserID, streamID int64, at stream.Position) error {
	_, err := s.tx.exec(`INSERT INTO device_lists (user_id, local, stream_id, cached_at) VALUES (?, FALSE, ?, ?)
		ON CONFLICT (user_id) DO UPDATE SET stream_id = excluded.stream_id, cached_at = excluded.cached_at`,
		string(user), streamID, int64(at))
	return err
}

// Drop forgets the cached list of a remote user, with its keys.
func (s DeviceLists) Drop(user id.UserID) error {
	if _, err := s.tx.exec(`UPDATE device_lists SET stream_id = 0, cached_at = 0 WHERE user_id = ?`, string(user)); err != nil {
		return err
	}
	if err := s.tx.DeviceKeys.DeleteUser(user); err != nil {
		return err
	}
	return s.tx.CrossSigning.DeleteUser(user)
}

const sharesNoRoom = `NOT EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = l.user_id AND m.membership = 'join'
	AND EXISTS (SELECT 1 FROM memberships o WHERE o.room_nid = m.room_nid AND o.local AND o.membership = 'join'))`

// Unfollowed lists remote users, at most limit, of whom there are rows but who share no room with anyone here. It looks
// at all rows: use it in a View.
func (s DeviceLists) Unfollowed(limit int) ([]id.UserID, error) {
	return s.tx.Memberships.users(`SELECT user_id FROM device_lists l WHERE NOT local AND `+sharesNoRoom+` ORDER BY user_id LIMIT ?`, limit)
}

// DeleteUnfollowed removes all that is kept of those of some users who are remote and share no room with anyone here.
func (s DeviceLists) DeleteUnfollowed(users []id.UserID) error {
	gone, err := s.subset(users, `SELECT user_id FROM device_lists l WHERE user_id IN (?) AND NOT local AND `+sharesNoRoom)
	if err != nil {
		return err
	}
	for user := range gone {
		if err := s.Delete(user); err != nil {
			return err
		}
	}
	return nil
}

// Delete removes all that is kept of a remote user.
func (s DeviceLists) Delete(user id.UserID) error {
	if err := s.Drop(user); err != nil {
		return err
	}
	_, err := s.tx.exec(`DELETE FROM device_lists WHERE user_id = ?`, string(user))
	return err
}
