package store

import (
	"database/sql"
	"encoding/json"
	"slices"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
)

// KeyBackup is a version of a user's key backup.
type KeyBackup struct {
	User      id.UserID
	Version   int64
	Algorithm string
	AuthData  json.RawMessage
	ETag      int64 // grows when the keys change
	Keys      int64 // how many there are
	Deleted   bool
}

// BackupKey is one session key in a backup.
type BackupKey struct {
	Room              id.RoomID
	Session           string
	FirstMessageIndex int64
	ForwardedCount    int64
	IsVerified        bool
	SessionData       json.RawMessage
	Size              int // of the session data; only from Find, which does not read it
}

// KeyBackups are the users' backups of session keys.
type KeyBackups struct{ tx *Tx }

const backupColumns = `version, algorithm, auth_data, etag, keys, deleted`

func (b *KeyBackup) fields() []any {
	return []any{&b.Version, &b.Algorithm, (*[]byte)(&b.AuthData), &b.ETag, &b.Keys, &b.Deleted}
}

// Newest reads the newest version that is not deleted; false if there is none.
func (s KeyBackups) Newest(user id.UserID) (KeyBackup, bool, error) {
	b := KeyBackup{User: user}
	ok, err := s.tx.row(b.fields(), `SELECT `+backupColumns+` FROM key_backups WHERE user_id = ? AND NOT deleted ORDER BY version DESC LIMIT 1`, string(user))
	return b, ok, err
}

// Get reads a version, also a deleted one; false if there never was one.
func (s KeyBackups) Get(user id.UserID, version int64) (KeyBackup, bool, error) {
	b := KeyBackup{User: user}
	ok, err := s.tx.row(b.fields(), `SELECT `+backupColumns+` FROM key_backups WHERE user_id = ? AND version = ?`, string(user), version)
	return b, ok, err
}

// Insert makes a new version and returns its number, which clients know it by: it must not come again.
func (s KeyBackups) Insert(user id.UserID, algorithm string, authData json.RawMessage) (int64, error) {
	var newest int64
	_, err := s.tx.row([]any{&newest}, `SELECT coalesce(max(version), 0) FROM key_backups WHERE user_id = ?`, string(user))
	if err != nil {
		return 0, err
	}
	version := beyond(newest)
	_, err = s.tx.exec(`INSERT INTO key_backups (user_id, version, algorithm, auth_data) VALUES (?, ?, ?, ?)`, string(user), version, algorithm, []byte(authData))
	return version, err
}

// Versions is how many versions a user ever had, and how many are not deleted.
func (s KeyBackups) Versions(user id.UserID) (ever, kept int, err error) {
	_, err = s.tx.row([]any{&ever, &kept}, `SELECT count(*), count(CASE WHEN deleted THEN NULL ELSE 1 END) FROM key_backups WHERE user_id = ?`, string(user))
	return ever, kept, err
}

// SetAuthData replaces the auth data of a version.
func (s KeyBackups) SetAuthData(user id.UserID, version int64, authData json.RawMessage) error {
	_, err := s.tx.exec(`UPDATE key_backups SET auth_data = ? WHERE user_id = ? AND version = ?`, []byte(authData), string(user), version)
	return err
}

// SetKeyCount notes how many keys there are now, and that they changed; it returns the new tag.
func (s KeyBackups) SetKeyCount(user id.UserID, version, keys int64) (int64, error) {
	var etag int64
	now := beyond(0)
	_, err := s.tx.row([]any{&etag}, `UPDATE key_backups SET keys = ?, etag = CASE WHEN etag >= ? THEN etag + 1 ELSE ? END
		WHERE user_id = ? AND version = ? RETURNING etag`, keys, now, now, string(user), version)
	return etag, err
}

// Delete marks a version as deleted. Its keys are there until DeleteKeys removes them.
func (s KeyBackups) Delete(user id.UserID, version int64) error {
	_, err := s.tx.exec(`UPDATE key_backups SET deleted = TRUE, keys = 0, auth_data = ? WHERE user_id = ? AND version = ?`, []byte("{}"), string(user), version)
	return err
}

// DeleteAll is Delete for all versions of a user.
func (s KeyBackups) DeleteAll(user id.UserID) error {
	_, err := s.tx.exec(`UPDATE key_backups SET deleted = TRUE, keys = 0, auth_data = ? WHERE user_id = ? AND NOT deleted`, []byte("{}"), string(user))
	return err
}

// Remains lists deleted versions that still have keys.
func (s KeyBackups) Remains(limit int) ([]KeyBackup, error) {
	var out []KeyBackup
	err := s.tx.query(func(rows *sql.Rows) error {
		var b KeyBackup
		if err := rows.Scan(&b.User, &b.Version); err != nil {
			return err
		}
		out = append(out, b)
		return nil
	}, `SELECT user_id, version FROM key_backups AS b WHERE deleted AND EXISTS (
		SELECT 1 FROM key_backup_keys AS k WHERE k.user_id = b.user_id AND k.version = b.version) LIMIT ?`, limit)
	return out, err
}

const backupKeyColumns = `room_id, session_id, first_message_index, forwarded_count, is_verified, session_data`

// Keys reads keys of a version in order of rooms and sessions: of all, those of a room, or of one session of it, those behind
// after, which may be empty. They are at most limit and have at most size bytes of session data, unless it is a single one.
func (s KeyBackups) Keys(user id.UserID, version int64, room id.RoomID, session string, after BackupKey, limit, size int) ([]BackupKey, error) {
	where, args := backupKeyFilter(user, version, room, session)
	where, args = where+` AND (room_id, session_id) > (?, ?) ORDER BY room_id, session_id LIMIT ?`, append(args, string(after.Room), after.Session)
	n, total := 0, 0
	err := s.tx.query(func(rows *sql.Rows) error {
		var one int
		err := rows.Scan(&one)
		if total += one; n == 0 || total <= size {
			n++
		}
		return err
	}, `SELECT octet_length(session_data) FROM key_backup_keys `+where, append(args, limit)...)
	if err != nil || n == 0 {
		return nil, err
	}
	var out []BackupKey
	err = s.collect(&out, `SELECT `+backupKeyColumns+` FROM key_backup_keys `+where, append(args, n)...)
	return out, err
}

// DeleteKeys removes keys of a version as Keys selects them, at most limit, and returns how many.
func (s KeyBackups) DeleteKeys(user id.UserID, version int64, room id.RoomID, session string, limit int) (int64, error) {
	where, args := backupKeyFilter(user, version, room, session)
	n, size := int64(0), 0
	err := s.tx.query(func(rows *sql.Rows) error {
		var one int
		err := rows.Scan(&one)
		n++
		size += one
		return err
	}, `DELETE FROM key_backup_keys `+where+` AND (room_id, session_id) IN (SELECT room_id, session_id FROM key_backup_keys `+where+` LIMIT ?)
		RETURNING octet_length(session_data)`, append(append(args[:len(args):len(args)], args...), limit)...)
	if err != nil {
		return 0, err
	}
	return n, s.tx.Stored.add(user, StoredKeyBackup, -size)
}

func backupKeyFilter(user id.UserID, version int64, room id.RoomID, session string) (string, []any) {
	where, args := `WHERE user_id = ? AND version = ?`, []any{string(user), version}
	if room != "" {
		where, args = where+` AND room_id = ?`, append(args, string(room))
		if session != "" {
			where, args = where+` AND session_id = ?`, append(args, session)
		}
	}
	return where, args
}

// Find reads those of the keys named that are there, without their session data.
func (s KeyBackups) Find(user id.UserID, version int64, keys []BackupKey) ([]BackupKey, error) {
	var out []BackupKey
	for chunk := range slices.Chunk(keys, 500) {
		names := make([][]string, len(chunk))
		for i, k := range chunk {
			names[i] = []string{string(k.Room), k.Session}
		}
		err := s.tx.query(func(rows *sql.Rows) error {
			var k BackupKey
			if err := rows.Scan(&k.Room, &k.Session, &k.FirstMessageIndex, &k.ForwardedCount, &k.IsVerified, &k.Size); err != nil {
				return err
			}
			out = append(out, k)
			return nil
		}, `SELECT room_id, session_id, first_message_index, forwarded_count, is_verified, octet_length(session_data) FROM key_backup_keys
			WHERE user_id = ? AND version = ? AND (room_id, session_id) IN (VALUES ?)`, string(user), version, bun.In(names))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s KeyBackups) collect(into *[]BackupKey, text string, args ...any) error {
	return s.tx.query(func(rows *sql.Rows) error {
		var k BackupKey
		err := rows.Scan(&k.Room, &k.Session, &k.FirstMessageIndex, &k.ForwardedCount, &k.IsVerified, (*[]byte)(&k.SessionData))
		if err != nil {
			return err
		}
		*into = append(*into, k)
		return nil
	}, text, args...)
}

// SetKeys writes keys in place of those that are there, by which so many bytes more are kept. No key may occur twice.
func (s KeyBackups) SetKeys(user id.UserID, version int64, keys []BackupKey, more int) error {
	for chunk := range slices.Chunk(keys, 50) {
		args := make([]any, 0, 8*len(chunk))
		for _, k := range chunk {
			args = append(args, string(user), version, string(k.Room), k.Session, k.FirstMessageIndex, k.ForwardedCount, k.IsVerified, []byte(k.SessionData))
		}
		_, err := s.tx.exec(`INSERT INTO key_backup_keys (user_id, version, `+backupKeyColumns+`) VALUES `+places(len(chunk), 8)+`
			ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE SET first_message_index = excluded.first_message_index,
			forwarded_count = excluded.forwarded_count, is_verified = excluded.is_verified, session_data = excluded.session_data`, args...)
		if err != nil {
			return err
		}
	}
	return s.tx.Stored.add(user, StoredKeyBackup, more)
}
