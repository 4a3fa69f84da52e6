package store

import (
	"database/sql"
	"time"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
)

// PendingInvite is an invite that a new room began with and that has not been delivered.
type PendingInvite struct {
	Room       RoomNID
	RoomID     id.RoomID // only in answers of Due
	User       id.UserID // who is to be invited
	Sender     id.UserID
	Direct     bool
	Since, Due time.Time
}

// Invites are the invites that have not been delivered.
type Invites struct{ tx *Tx }

// Add notes an invite that is to be delivered.
func (s Invites) Add(p PendingInvite) error {
	_, err := s.tx.exec(`INSERT INTO pending_invites (room_nid, user_id, server, sender, direct, since, due) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		int64(p.Room), string(p.User), string(p.User.Server()), string(p.Sender), p.Direct, p.Since.UnixMilli(), p.Due.UnixMilli())
	return err
}

// Count is how many invites of a user have not been delivered.
func (s Invites) Count(sender id.UserID) (int, error) {
	var n int
	_, err := s.tx.row([]any{&n}, `SELECT count(*) FROM pending_invites WHERE sender = ?`, string(sender))
	return n, err
}

// Due lists the invites whose time has come, up to a limit, but not those for some servers or by some users: first those
// that have waited longest. It has come, too, if it is more than longest away: the clock was wrong when that was written.
func (s Invites) Due(now time.Time, longest time.Duration, limit int, notFor []id.ServerName, notBy []id.UserID) ([]PendingInvite, error) {
	var out []PendingInvite
	servers, senders := []string{""}, []string{""}
	for _, server := range notFor {
		servers = append(servers, string(server))
	}
	for _, user := range notBy {
		senders = append(senders, string(user))
	}
	err := s.tx.query(func(rows *sql.Rows) error {
		var p PendingInvite
		var since, due int64
		if err := rows.Scan(&p.Room, &p.RoomID, &p.User, &p.Sender, &p.Direct, &since, &due); err != nil {
			return err
		}
		p.Since, p.Due = time.UnixMilli(since), time.UnixMilli(due)
		out = append(out, p)
		return nil
	}, `SELECT p.room_nid, r.room_id, p.user_id, p.sender, p.direct, p.since, p.due FROM pending_invites p JOIN rooms r ON r.nid = p.room_nid
		WHERE (p.due <= ? OR p.due > ?) AND p.server NOT IN (?) AND p.sender NOT IN (?) ORDER BY p.due, p.room_nid, p.user_id LIMIT ?`,
		now.UnixMilli(), now.Add(longest).UnixMilli(), bun.In(servers), bun.In(senders), int64(limit))
	return out, err
}

// NextDue is when an invite is due next after a time; false if none is.
func (s Invites) NextDue(after time.Time) (time.Time, bool, error) {
	var due sql.NullInt64
	_, err := s.tx.row([]any{&due}, `SELECT min(due) FROM pending_invites WHERE due > ?`, after.UnixMilli())
	return time.UnixMilli(due.Int64), due.Valid, err
}

// Take moves on when an invite is due, for who is going to try; false if somebody else has done so or it is gone.
func (s Invites) Take(p PendingInvite, until time.Time) (bool, error) {
	n, err := s.tx.exec(`UPDATE pending_invites SET due = ? WHERE room_nid = ? AND user_id = ? AND due = ?`,
		until.UnixMilli(), int64(p.Room), string(p.User), p.Due.UnixMilli())
	return n == 1, err
}

// Delay has an invite wait, and at least as long all others for the same server that nobody is trying.
func (s Invites) Delay(p PendingInvite, now, due time.Time) error {
	_, err := s.tx.exec(`UPDATE pending_invites SET due = ? WHERE room_nid = ? AND user_id = ?`, due.UnixMilli(), int64(p.Room), string(p.User))
	if err != nil {
		return err
	}
	_, err = s.tx.exec(`UPDATE pending_invites SET due = ? WHERE server = ? AND due <= ?`, due.UnixMilli(), string(p.User.Server()), now.UnixMilli())
	return err
}

// Done removes an invite.
func (s Invites) Done(p PendingInvite) error {
	_, err := s.tx.exec(`DELETE FROM pending_invites WHERE room_nid = ? AND user_id = ?`, int64(p.Room), string(p.User))
	return err
}
