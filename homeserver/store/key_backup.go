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

// Versions is how many versions a user ever had.
func (s KeyBackups) Versions(user id.UserID) (int, error) {
	var n int
	_, err := s.tx.row([]any{&n}, `SELECT count(*) FROM key_backups WHERE user_id = ?`, string(user))
	return n, err
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

// Delete marks a version as deleted and removes its keys.
func (s KeyBackups) Delete(user id.UserID, version int64) error {
	if _, err := s.DeleteKeys(user, version, "", ""); err != nil {
		return err
	}
	_, err := s.tx.exec(`UPDATE key_backups SET deleted = TRUE, keys = 0, auth_data = ? WHERE user_id = ? AND version = ?`, []byte("{}"), string(user), version)
	return err
}

// DeleteUser removes all backups of a user.
func (s KeyBackups) DeleteUser(user id.UserID) error {
	if _, err := s.tx.exec(`DELETE FROM key_backup_keys WHERE user_id = ?`, string(user)); err != nil {
		return err
	}
	_, err := s.tx.exec(`DELETE FROM key_backups WHERE user_id = ?`, string(user))
	return err
}

const backupKeyColumns = `room_id, session_id, first_message_index, forwarded_count, is_verified, session_data`

// Keys reads the keys of a version: all, those of a room, or of one session of it.
func (s KeyBackups) Keys(user id.UserID, version int64, room id.RoomID, session string) ([]BackupKey, error) {
	where, args := backupKeyFilter(user, version, room, session)
	var out []BackupKey
	err := s.collect(&out, `SELECT `+backupKeyColumns+` FROM key_backup_keys `+where+` ORDER BY room_id, session_id`, args...)
	return out, err
}

// DeleteKeys removes keys of a version as Keys selects them, and returns how many.
func (s KeyBackups) DeleteKeys(user id.UserID, version int64, room id.RoomID, session string) (int64, error) {
	where, args := backupKeyFilter(user, version, room, session)
	return s.tx.exec(`DELETE FROM key_backup_keys `+where, args...)
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

// Find reads those of the keys named that are there.
func (s KeyBackups) Find(user id.UserID, version int64, keys []BackupKey) ([]BackupKey, error) {
	var out []BackupKey
	for chunk := range slices.Chunk(keys, 500) {
		names := make([][]string, len(chunk))
		for i, k := range chunk {
			names[i] = []string{string(k.Room), k.Session}
		}
		err := s.collect(&out, `SELECT `+backupKeyColumns+` FROM key_backup_keys
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

// SetKeys writes keys in place of those that are there. No key may occur twice.
func (s KeyBackups) SetKeys(user id.UserID, version int64, keys []BackupKey) error {
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
	return nil
}
