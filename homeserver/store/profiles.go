package store

import (
	"database/sql"
	"encoding/json"
	"strings"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// Profiles are the profiles of local users, field by field.
type Profiles struct{ tx *Tx }

// Get reads the profile of a user.
func (s Profiles) Get(user id.UserID) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	err := s.tx.query(func(rows *sql.Rows) error {
		var field, value string
		if err := rows.Scan(&field, &value); err != nil {
			return err
		}
		out[field] = json.RawMessage(value)
		return nil
	}, `SELECT field, value FROM profiles WHERE user_id = ?`, string(user))
	return out, err
}

// Set writes a field and logs the change. The folded value is what the user directory searches.
func (s Profiles) Set(user id.UserID, field string, value json.RawMessage, folded string) error {
	s.tx.Log(stream.Change{Kind: stream.Profile, User: user}, func(stream.Position) error { return nil })
	_, err := s.tx.exec(`INSERT INTO profiles (user_id, field, value, folded) VALUES (?, ?, ?, ?)
		ON CONFLICT (user_id, field) DO UPDATE SET value = excluded.value, folded = excluded.folded`, string(user), field, string(value), folded)
	return err
}

// Delete removes a field and logs the change; false if it was not there.
func (s Profiles) Delete(user id.UserID, field string) (bool, error) {
	n, err := s.tx.exec(`DELETE FROM profiles WHERE user_id = ? AND field = ?`, string(user), field)
	if n > 0 {
		s.tx.Log(stream.Change{Kind: stream.Profile, User: user}, func(stream.Position) error { return nil })
	}
	return n > 0, err
}

// DeleteUser removes all fields of a user and logs the change.
func (s Profiles) DeleteUser(user id.UserID) error {
	n, err := s.tx.exec(`DELETE FROM profiles WHERE user_id = ?`, string(user))
	if n > 0 {
		s.tx.Log(stream.Change{Kind: stream.Profile, User: user}, func(stream.Position) error { return nil })
	}
	return err
}

// Found is a local user whom the user directory may show.
type Found struct {
	User   id.UserID
	Folded string // their name as Set was given it
}

// openRoom is true of a room that is open to all; knownRoom of a membership o in a room r that somebody may know of: the room
// is open to all, or theirs.
const (
	openRoom  = `r.join_rule = 'public' OR r.history_visibility = 'world_readable'`
	knownRoom = `o.membership = 'join' AND (` + openRoom + ` OR EXISTS (
	SELECT 1 FROM memberships m WHERE m.room_nid = o.room_nid AND m.user_id = ? AND m.membership = 'join'))`
)

// Search finds up to limit local users whose ID or name contains a text in lower case: the searcher, and those who share
// a room with the searcher or are in one that is open to all. First come those who are called just so, then those whose
// name begins so, of these the shortest.
func (s Profiles) Search(searcher id.UserID, text string, limit int) ([]Found, error) {
	text = escapeLike(text)
	inside, localpart := "%"+text+"%", "@"+strings.TrimPrefix(text, "@")
	var out []Found
	err := s.tx.query(func(rows *sql.Rows) error {
		var f Found
		if err := rows.Scan(&f.User, &f.Folded); err != nil {
			return err
		}
		out = append(out, f)
		return nil
	}, `SELECT u.user_id, coalesce(p.folded, '') FROM users u
		LEFT JOIN profiles p ON p.user_id = u.user_id AND p.field = 'displayname'
		WHERE NOT u.deactivated AND (lower(u.user_id) LIKE ? ESCAPE '!' OR p.folded LIKE ? ESCAPE '!')
		AND (u.user_id = ? OR EXISTS (
			SELECT 1 FROM memberships o JOIN rooms r ON r.nid = o.room_nid WHERE o.user_id = u.user_id AND `+knownRoom+`))
		ORDER BY CASE WHEN p.folded LIKE ? ESCAPE '!' OR lower(u.user_id) LIKE ? ESCAPE '!' OR lower(u.user_id) LIKE ? ESCAPE '!' THEN 0
			WHEN p.folded LIKE ? ESCAPE '!' OR lower(u.user_id) LIKE ? ESCAPE '!' THEN 1 ELSE 2 END, length(coalesce(p.folded, '')), u.user_id LIMIT ?`,
		inside, inside, string(searcher), string(searcher), text, localpart, localpart+":%", text+"%", localpart+"%", int64(limit))
	return out, err
}

// Errand is something that rooms have to be told of a user.
type Errand struct {
	User     id.UserID
	Kind     string
	Serial   int64
	Failures int // since it was last asked for
}

// Errands are what has been decided about a user and rooms have not been told yet.
type Errands struct{ tx *Tx }

// Add asks for an errand, once more if it is already there.
func (s Errands) Add(user id.UserID, kind string) error {
	_, err := s.tx.exec(`INSERT INTO account_errands (user_id, kind, serial) VALUES (?, ?, 1)
		ON CONFLICT (user_id, kind) DO UPDATE SET serial = account_errands.serial + 1, failures = 0, due = 0`, string(user), kind)
	return err
}

// Due lists errands whose time has come, up to a limit: first those that have waited longest. So it has if it is more than
// longest away: the clock was wrong when that was written.
func (s Errands) Due(now time.Time, longest time.Duration, limit int) ([]Errand, error) {
	var out []Errand
	err := s.tx.query(func(rows *sql.Rows) error {
		var e Errand
		if err := rows.Scan(&e.User, &e.Kind, &e.Serial, &e.Failures); err != nil {
			return err
		}
		out = append(out, e)
		return nil
	}, `SELECT user_id, kind, serial, failures FROM account_errands WHERE due <= ? OR due > ? ORDER BY due, user_id, kind LIMIT ?`,
		now.UnixMilli(), now.Add(longest).UnixMilli(), int64(limit))
	return out, err
}

// Delay notes how often an errand has failed, and has it wait, unless it was asked for again meanwhile.
func (s Errands) Delay(e Errand, failures int, due time.Time) error {
	_, err := s.tx.exec(`UPDATE account_errands SET failures = ?, due = ? WHERE user_id = ? AND kind = ? AND serial = ?`,
		int64(failures), due.UnixMilli(), string(e.User), e.Kind, e.Serial)
	return err
}

// Done removes an errand unless it was asked for again meanwhile.
func (s Errands) Done(e Errand) error {
	_, err := s.tx.exec(`DELETE FROM account_errands WHERE user_id = ? AND kind = ? AND serial = ?`, string(e.User), e.Kind, e.Serial)
	return err
}
