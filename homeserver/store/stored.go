package store

import (
	"database/sql"
	"maps"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
)

// The kinds of what is counted for each user: in bytes, but for claims.
const (
	StoredAccountData = "account_data"
	StoredKeyBackup   = "key_backup"
	StoredMedia       = "media"  // that the user has uploaded
	StoredClaims      = "claims" // one-time keys that were claimed
)

// Stored is how much is kept for each user, so that a quota costs no look at all that is kept.
type Stored struct{ tx *Tx }

// Bytes is how many bytes of a kind are kept for a user.
func (s Stored) Bytes(user id.UserID, kind string) (int64, error) {
	var n int64
	_, err := s.tx.row([]any{&n}, `SELECT bytes FROM stored_bytes WHERE user_id = ? AND kind = ?`, string(user), kind)
	return n, err
}

// Hold is Bytes; other processes that Hold the same wait until this transaction ends, so that what is read from here on is
// not changed by them.
func (s Stored) Hold(user id.UserID, kind string) (int64, error) {
	var n int64
	_, err := s.tx.row([]any{&n}, `INSERT INTO stored_bytes (user_id, kind, bytes) VALUES (?, ?, 0)
		ON CONFLICT (user_id, kind) DO UPDATE SET bytes = stored_bytes.bytes RETURNING bytes`, string(user), kind)
	return n, err
}

// add counts bytes that come or, if negative, go.
func (s Stored) add(user id.UserID, kind string, bytes int) error {
	if bytes == 0 {
		return nil
	}
	_, err := s.tx.exec(`INSERT INTO stored_bytes (user_id, kind, bytes) VALUES (?, ?, ?)
		ON CONFLICT (user_id, kind) DO UPDATE SET bytes = stored_bytes.bytes + excluded.bytes`, string(user), kind, int64(bytes))
	return err
}

// addAll is add for several users, and returns what is counted for them now.
func (s Stored) addAll(kind string, more map[id.UserID]int) (map[id.UserID]int64, error) {
	out := make(map[id.UserID]int64, len(more))
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(more)), 100) { // in order, as other processes take them
		args := make([]any, 0, 3*len(chunk))
		for _, user := range chunk {
			args = append(args, string(user), kind, int64(more[user]))
		}
		err := s.tx.query(func(rows *sql.Rows) error {
			var user id.UserID
			var n int64
			err := rows.Scan(&user, &n)
			out[user] = n
			return err
		}, `INSERT INTO stored_bytes (user_id, kind, bytes) VALUES `+places(len(chunk), 3)+`
			ON CONFLICT (user_id, kind) DO UPDATE SET bytes = stored_bytes.bytes + excluded.bytes RETURNING user_id, bytes`, args...)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// clear forgets what is counted of a kind.
func (s Stored) clear(user id.UserID, kind string) error {
	_, err := s.tx.exec(`DELETE FROM stored_bytes WHERE user_id = ? AND kind = ?`, string(user), kind)
	return err
}
