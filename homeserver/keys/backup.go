package keys

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// WrongVersionError says that keys may be stored in the newest version of a backup only.
type WrongVersionError struct{ Current string }

func (e *WrongVersionError) Error() string { return "this is not the current version of the backup" }

// Backup describes a version of a key backup.
type Backup struct {
	Version   string
	Algorithm string
	AuthData  json.RawMessage
	BackupState
}

// BackupState says how many keys there are, and which state of the keys that is.
type BackupState struct {
	Count int64
	ETag  string
}

// BackupSelection names keys in a version of a backup: all, those of a room, or of one session of a room.
type BackupSelection struct {
	Version string
	Room    id.RoomID
	Session string
}

func stateOf(b store.KeyBackup) BackupState {
	return BackupState{b.Keys, strconv.FormatInt(b.ETag, 10)}
}

// CreateBackup makes a new version, which is then the current one.
func (s *Service) CreateBackup(ctx context.Context, user id.UserID, algorithm string, authData json.RawMessage) (string, error) {
	if err := checkBackup(algorithm, authData); err != nil {
		return "", fmt.Errorf("create a backup: %w", err)
	}
	var version int64
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		ever, kept, err := tx.KeyBackups.Versions(user)
		switch {
		case err != nil:
			return err
		case ever >= maxBackupVersions:
			return fmt.Errorf("%w: at most %d versions", ErrTooLarge, maxBackupVersions)
		case kept >= maxBackupsKept:
			return fmt.Errorf("%w: at most %d versions are kept; delete old ones first", ErrTooLarge, maxBackupsKept)
		}
		version, err = tx.KeyBackups.Insert(user, algorithm, authData)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("create a backup: %w", err)
	}
	return strconv.FormatInt(version, 10), nil
}

func checkBackup(algorithm string, authData json.RawMessage) error {
	if algorithm == "" || len(authData) == 0 || authData[0] != '{' {
		return fmt.Errorf("%w: algorithm and auth_data, an object, are needed", ErrMissing)
	}
	if err := checkName(algorithm, "an algorithm"); err != nil {
		return err
	}
	if len(authData) > maxSessionData {
		return fmt.Errorf("auth_data: %w", ErrTooLarge)
	}
	return nil
}

// GetBackup describes a version; the current one if version is empty.
func (s *Service) GetBackup(ctx context.Context, user id.UserID, version string) (Backup, error) {
	var b store.KeyBackup
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		b, err = findBackup(tx, user, version)
		return err
	})
	if err != nil {
		return Backup{}, fmt.Errorf("backup: %w", err)
	}
	return Backup{strconv.FormatInt(b.Version, 10), b.Algorithm, b.AuthData, stateOf(b)}, nil
}

// findBackup finds a version that is not deleted.
func findBackup(tx *store.Tx, user id.UserID, version string) (store.KeyBackup, error) {
	b, err := findAnyBackup(tx, user, version)
	if err == nil && b.Deleted {
		err = ErrNotFound
	}
	return b, err
}

// findAnyBackup finds a version, deleted or not; the current one if version is empty.
func findAnyBackup(tx *store.Tx, user id.UserID, version string) (store.KeyBackup, error) {
	var b store.KeyBackup
	var ok bool
	var err error
	if version == "" {
		b, ok, err = tx.KeyBackups.Newest(user)
	} else if n, bad := strconv.ParseInt(version, 10, 64); bad == nil {
		b, ok, err = tx.KeyBackups.Get(user, n)
	}
	if err == nil && !ok {
		err = ErrNotFound
	}
	return b, err
}

// UpdateBackup replaces the auth data of a version. The algorithm cannot be changed.
func (s *Service) UpdateBackup(ctx context.Context, user id.UserID, b Backup) error {
	if err := checkBackup(b.Algorithm, b.AuthData); err != nil {
		return fmt.Errorf("update a backup: %w", err)
	}
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		old, err := findBackup(tx, user, b.Version)
		if err != nil {
			return err
		}
		if old.Algorithm != b.Algorithm {
			return fmt.Errorf("%w: the algorithm of a backup cannot be changed", ErrInvalid)
		}
		return tx.KeyBackups.SetAuthData(user, old.Version, b.AuthData)
	})
	if err != nil {
		return fmt.Errorf("update a backup: %w", err)
	}
	return nil
}

// DeleteBackup deletes a version with its keys. A deleted one may be deleted again.
func (s *Service) DeleteBackup(ctx context.Context, user id.UserID, version string) error {
	var b store.KeyBackup
	err := s.Store.Update(ctx, func(tx *store.Tx) (err error) {
		if b, err = findAnyBackup(tx, user, version); err != nil || b.Deleted {
			return err
		}
		return tx.KeyBackups.Delete(user, b.Version)
	})
	if err == nil {
		err = s.deleteRemains(ctx, b)
	}
	if err != nil {
		return fmt.Errorf("delete a backup: %w", err)
	}
	return nil
}

// deleteRemains removes the keys of a deleted version, some at a time: others wait for the update.
func (s *Service) deleteRemains(ctx context.Context, b store.KeyBackup) error {
	for n := int64(1); n > 0; {
		err := s.Store.Update(ctx, func(tx *store.Tx) (err error) {
			if _, err = tx.Stored.Hold(b.User, store.StoredKeyBackup); err != nil {
				return err
			}
			n, err = tx.KeyBackups.DeleteKeys(b.User, b.Version, "", "", backupStep)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pruneBackups removes the keys of versions whose deletion was interrupted.
func (s *Service) pruneBackups(ctx context.Context) error {
	var remains []store.KeyBackup
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		remains, err = tx.KeyBackups.Remains(1000)
		return err
	})
	for _, b := range remains {
		if err == nil {
			err = s.deleteRemains(ctx, b)
		}
	}
	return err
}

// PutBackupKeys stores keys in the current version, which has to be named, some at a time: if it fails, those before are
// stored. A key that is there is replaced by a better one only.
func (s *Service) PutBackupKeys(ctx context.Context, user id.UserID, version string, keys []store.BackupKey) (BackupState, error) {
	for i := range keys {
		if err := checkBackupKey(&keys[i]); err != nil {
			return BackupState{}, fmt.Errorf("store keys in a backup: %w", err)
		}
	}
	var state BackupState
	for begun := false; !begun || len(keys) > 0; begun = true {
		n := someKeys(keys)
		some := keys[:n]
		keys = keys[n:]
		err := s.Store.Update(ctx, func(tx *store.Tx) error {
			kept, err := tx.Stored.Hold(user, store.StoredKeyBackup)
			if err != nil {
				return err
			}
			b, err := currentBackup(tx, user, version)
			if err != nil {
				return err
			}
			if err := putBackupKeys(tx, &b, some, kept); err != nil {
				return err
			}
			state = stateOf(b)
			return nil
		})
		if err != nil {
			return BackupState{}, fmt.Errorf("store keys in a backup: %w", err)
		}
	}
	return state, nil
}

// someKeys is how many keys one update writes: others wait for it.
func someKeys(keys []store.BackupKey) int {
	size := 0
	for i, k := range keys[:min(len(keys), backupStep)] {
		if size += len(k.SessionData); size > backupBytes && i > 0 {
			return i
		}
	}
	return min(len(keys), backupStep)
}

// currentBackup finds the version that keys may be stored in, if it is the one named.
func currentBackup(tx *store.Tx, user id.UserID, version string) (store.KeyBackup, error) {
	b, err := findBackup(tx, user, "")
	if err != nil {
		return b, err
	}
	if current := strconv.FormatInt(b.Version, 10); current != version {
		if _, err := findBackup(tx, user, version); err != nil {
			return b, err
		}
		return b, &WrongVersionError{current}
	}
	return b, nil
}

// putBackupKeys writes those of keys that are better than what is there, as long as the user, who has kept bytes in backups,
// does not get too many.
func putBackupKeys(tx *store.Tx, b *store.KeyBackup, keys []store.BackupKey, kept int64) error {
	there, err := tx.KeyBackups.Find(b.User, b.Version, keys)
	if err != nil {
		return err
	}
	type name struct {
		room    id.RoomID
		session string
	}
	known := make(map[name]store.BackupKey, len(there))
	for _, k := range there {
		known[name{k.Room, k.Session}] = k
	}
	var better []store.BackupKey
	more := 0
	for _, k := range keys {
		old, ok := known[name{k.Room, k.Session}]
		if !ok {
			b.Keys++
		}
		if !ok || isBetter(k, old) {
			better = append(better, k)
			more += len(k.SessionData) - old.Size
		}
	}
	if len(better) == 0 {
		return nil
	}
	if b.Keys > maxBackupKeys {
		return fmt.Errorf("%w: a backup has at most %d keys", ErrTooLarge, maxBackupKeys)
	}
	if more > 0 && kept+int64(more) > maxBackupSize {
		return fmt.Errorf("%w: the backups of a user have at most %d bytes; delete old versions first", ErrTooLarge, maxBackupSize)
	}
	if err := tx.KeyBackups.SetKeys(b.User, b.Version, better, more); err != nil {
		return err
	}
	b.ETag, err = tx.KeyBackups.SetKeyCount(b.User, b.Version, b.Keys)
	return err
}

func checkBackupKey(k *store.BackupKey) error {
	if _, err := id.ParseRoomID(string(k.Room)); err != nil {
		return err
	}
	if err := checkName(k.Session, "a session ID"); err != nil {
		return err
	}
	switch {
	case len(k.SessionData) == 0 || k.SessionData[0] != '{':
		return fmt.Errorf("%w: session_data, an object, is needed", ErrMissing)
	case len(k.SessionData) > maxSessionData:
		return fmt.Errorf("session_data: %w: at most %d bytes", ErrTooLarge, maxSessionData)
	case k.FirstMessageIndex < 0 || k.ForwardedCount < 0:
		return fmt.Errorf("%w: first_message_index and forwarded_count are not negative", ErrInvalid)
	}
	return nil
}

// isBetter says whether a key takes the place of another one (Client-Server API, "Storing a key in the backup").
func isBetter(k, old store.BackupKey) bool {
	switch {
	case k.IsVerified != old.IsVerified:
		return k.IsVerified
	case k.FirstMessageIndex != old.FirstMessageIndex:
		return k.FirstMessageIndex < old.FirstMessageIndex
	default:
		return k.ForwardedCount < old.ForwardedCount
	}
}

// BackupKeys reads keys from a backup, in order of rooms and sessions, and hands them on some at a time: there may be many. One
// session that is not there is ErrNotFound.
func (s *Service) BackupKeys(ctx context.Context, user id.UserID, sel BackupSelection, each func([]store.BackupKey) error) error {
	var after store.BackupKey
	for begun := false; ; begun = true {
		var keys []store.BackupKey
		err := s.Store.View(ctx, func(tx *store.Tx) error {
			b, err := findBackup(tx, user, sel.Version)
			if err != nil {
				return err
			}
			keys, err = tx.KeyBackups.Keys(user, b.Version, sel.Room, sel.Session, after, backupStep, backupBytes)
			if err == nil && sel.Session != "" && len(keys) == 0 {
				err = ErrNotFound
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("keys in a backup: %w", err)
		}
		if len(keys) > 0 || !begun {
			if err := each(keys); err != nil {
				return err
			}
		}
		if len(keys) == 0 || sel.Session != "" {
			return nil
		}
		after = keys[len(keys)-1]
	}
}

// DeleteBackupKeys deletes keys from a backup, some at a time.
func (s *Service) DeleteBackupKeys(ctx context.Context, user id.UserID, sel BackupSelection) (BackupState, error) {
	var state BackupState
	for n := int64(backupStep); n == backupStep; {
		err := s.Store.Update(ctx, func(tx *store.Tx) error {
			if _, err := tx.Stored.Hold(user, store.StoredKeyBackup); err != nil {
				return err
			}
			b, err := findBackup(tx, user, sel.Version)
			if err != nil {
				return err
			}
			if n, err = tx.KeyBackups.DeleteKeys(user, b.Version, sel.Room, sel.Session, backupStep); err != nil {
				return err
			}
			if n > 0 {
				b.Keys -= n
				if b.ETag, err = tx.KeyBackups.SetKeyCount(user, b.Version, b.Keys); err != nil {
					return err
				}
			}
			state = stateOf(b)
			return nil
		})
		if err != nil {
			return BackupState{}, fmt.Errorf("delete keys from a backup: %w", err)
		}
	}
	return state, nil
}
