package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/e2ee/backup"
	"github.com/securecomm/securecomm/e2ee/keyexport"
	"github.com/securecomm/securecomm/e2ee/secretstorage"
)

func (s *session) exportKeys(passphrase string) ([]byte, int, error) {
	keys, err := s.machine.ExportRoomKeys()
	if err != nil {
		return nil, 0, err
	}
	data, err := keyexport.Seal(keys, passphrase)
	return data, len(keys), err
}

func (s *session) importKeys(data []byte, passphrase string) (int, error) {
	keys, err := keyexport.Open(data, passphrase)
	if err != nil {
		return 0, fail(exitFailure, "check the file and its passphrase", "%w", err)
	}
	return s.machine.ImportRoomKeys(keys)
}

func (s *session) backupView(ctx context.Context) (backupView, error) {
	current, ok, err := s.client.Backup(ctx)
	if err != nil || !ok {
		return backupView{}, err
	}
	return backupView{Version: current.Version, Count: current.Count, Active: s.machine.BackupVersion() == current.Version}, nil
}

// enableBackup makes a backup, and a secret storage that holds its key and those of the user's identity: one
// recovery key opens all of it.
func (s *session) enableBackup(ctx context.Context, replace bool) (recovery, version string, err error) {
	if _, ok, err := s.client.Backup(ctx); err != nil {
		return "", "", err
	} else if ok && !replace {
		return "", "", fail(exitFailure, `use it with "securecomm keys backup restore", or start anew with --replace`, "there is a backup already")
	}
	key, err := backup.NewKey()
	if err != nil {
		return "", "", err
	}
	storage, err := s.newSecrets(ctx)
	if err != nil {
		return "", "", err
	}
	if err := storage.put(ctx, secretstorage.Backup, base64.StdEncoding.EncodeToString(key.Bytes())); err != nil {
		return "", "", err
	}
	if err := s.storeIdentity(ctx, storage); err != nil {
		return "", "", err
	}
	authData, err := s.machine.NewBackup(key)
	if err != nil {
		return "", "", err
	}
	if version, err = s.client.CreateBackup(ctx, backup.Algorithm, authData); err != nil {
		return "", "", err
	}
	if err := s.machine.UseBackup(version, authData, key); err != nil {
		return "", "", err
	}
	if err := storage.makeDefault(ctx); err != nil {
		return "", "", err
	}
	return storage.key.Recovery(), version, s.backUp(ctx)
}

// storeIdentity puts the private keys of the user's identity into the storage, if they are here.
func (s *session) storeIdentity(ctx context.Context, storage *secrets) error {
	if !s.machine.HasCrossSigning() {
		return nil
	}
	master, selfSigning, userSigning, err := s.machine.ExportCrossSigning()
	if err != nil {
		return err
	}
	for name, secret := range map[string]string{
		secretstorage.Master: master, secretstorage.SelfSigning: selfSigning, secretstorage.UserSigning: userSigning,
	} {
		if err := storage.put(ctx, name, secret); err != nil {
			return err
		}
	}
	return nil
}

// restoreBackup fetches the keys in the backup, and those of the user's identity, by the recovery key.
func (s *session) restoreBackup(ctx context.Context, recovery string) (int, error) {
	storage, err := s.openSecrets(ctx, recovery)
	if err != nil {
		return 0, err
	}
	if storage != nil {
		if err := s.fetchIdentity(ctx, storage); err != nil {
			return 0, err
		}
	}
	current, ok, err := s.client.Backup(ctx)
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, fail(exitFailure, `make one with "securecomm keys backup enable" on the session that has the keys`, "there is no backup")
	}
	key, err := s.backupKey(ctx, storage, recovery)
	if err != nil {
		return 0, err
	}
	if err := s.machine.UseBackup(current.Version, current.AuthData, key); err != nil {
		return 0, fail(exitUnsafe, "check the recovery key, or ask the server's administrator who replaced the backup", "%w", err)
	}
	answer, err := s.client.BackupKeys(ctx, current.Version)
	if err != nil {
		return 0, err
	}
	count, err := s.machine.RestoreBackup(current.Version, key, answer)
	if err != nil {
		return 0, err
	}
	return count, s.backUp(ctx)
}

// backupKey is the key of the backup: from the storage, or what the user entered is the key itself.
func (s *session) backupKey(ctx context.Context, storage *secrets, recovery string) (backup.Key, error) {
	if storage != nil {
		secret, err := storage.get(ctx, secretstorage.Backup)
		if err != nil {
			return backup.Key{}, err
		}
		if secret != "" {
			raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(secret, "="))
			if err != nil {
				return backup.Key{}, secretstorage.ErrMalformed
			}
			return backup.KeyFromBytes(raw)
		}
	}
	key, err := backup.ParseKey(recovery)
	if err != nil {
		return backup.Key{}, fail(exitFailure, "check the recovery key; it is the one shown when the backup was made", "%w", err)
	}
	return key, nil
}

// fetchIdentity takes the private keys of the user's identity from the storage and signs this session.
func (s *session) fetchIdentity(ctx context.Context, storage *secrets) error {
	var keys [3]string
	for i, name := range []string{secretstorage.Master, secretstorage.SelfSigning, secretstorage.UserSigning} {
		var err error
		if keys[i], err = storage.get(ctx, name); err != nil {
			return err
		}
		if keys[i] == "" {
			return nil // there is no identity, or not in this storage
		}
	}
	signatures, err := s.machine.ImportCrossSigning(keys[0], keys[1], keys[2])
	if err != nil {
		return err
	}
	return s.uploadSignatures(ctx, signatures)
}

// maxBackups bounds how much one command adds to the backup; the next one goes on.
const maxBackups = 50

// takeBackupKey uses the key of the backup that another verified device of the user gave, if any: it fetches the keys in
// the backup, and makes this session add to it.
func (s *session) takeBackupKey(ctx context.Context) error {
	key, ok := s.machine.ReceivedBackupKey()
	if !ok {
		return nil
	}
	current, ok, err := s.client.Backup(ctx)
	if err != nil {
		return err
	}
	if !ok {
		return s.machine.ForgetBackupKey()
	}
	answer, err := s.client.BackupKeys(ctx, current.Version)
	if err != nil {
		return err
	}
	// First what is in it: once it is in use, nobody looks there again.
	count, err := s.machine.RestoreBackup(current.Version, key, answer)
	if err != nil {
		return err
	}
	if err := s.machine.UseBackup(current.Version, current.AuthData, key); errors.Is(err, e2ee.ErrOtherBackup) {
		return s.machine.ForgetBackupKey()
	} else if err != nil {
		return err
	}
	s.app.note("Another of your devices gave the key of your key backup: %d keys were restored, and this session adds to it.", count)
	return nil
}

// backUp adds to the backup what it lacks.
func (s *session) backUp(ctx context.Context) error {
	if err := s.takeBackupKey(ctx); err != nil {
		return err
	}
	for range maxBackups {
		batch, err := s.machine.BackupNext()
		if err != nil || batch == nil {
			return err
		}
		err = s.client.PutBackupKeys(ctx, batch.Version, batch)
		var refused *client.Error
		if errors.As(err, &refused) && (refused.Code == "M_WRONG_ROOM_KEYS_VERSION" || refused.Code == "M_NOT_FOUND") {
			s.app.note("Warning: the key backup was replaced by another session; this one does not add to it any more.")
			return s.machine.StopBackup()
		}
		if err != nil {
			return err
		}
		if err := s.machine.MarkBackedUp(batch); err != nil {
			return err
		}
	}
	return nil
}

// explainRecovery is explain for errors of recovery.
func explainRecovery(err error) (code int, hint string, ok bool) {
	switch {
	case errors.Is(err, secretstorage.ErrMalformed), errors.Is(err, secretstorage.ErrKey):
		return exitFailure, "what the server keeps does not fit the recovery key; make a new backup with --replace", true
	case errors.Is(err, e2ee.ErrOtherBackup):
		return exitUnsafe, "check the recovery key", true
	}
	return 0, "", false
}
