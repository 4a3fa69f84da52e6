package e2ee

import (
	"errors"
	"fmt"

	"github.com/securecomm/securecomm/e2ee/backup"
	"github.com/securecomm/securecomm/e2ee/wire"
)

// secretBackup is the private key of the key backup, which verified devices of a user give each other, too.
const secretBackup = "m.megolm_backup.v1"

// maxBackupAsks is how often the own devices are asked for it, an hour apart: the user may have no backup.
const maxBackupAsks = 24

// backupAsk is that the own verified devices were asked for the key of the backup, and what came.
type backupAsk struct {
	At    int64  `json:"at"`
	Tries int    `json:"tries"`
	ID    string `json:"id"`
	Key   []byte `json:"key,omitempty"` // not checked yet against the backup on the server
}

// askBackupKey asks the own verified devices for the key of the backup, if this device adds to none.
func (t *txn) askBackupKey() error {
	if _, has := t.Get(keyBackup); has {
		return nil
	}
	own, err := loadUser(t, t.m.user)
	if err != nil || own.Identity == nil || !own.Verified || own.changed() {
		return err
	}
	asked, err := load[backupAsk](t, keyBackupAsk)
	if err != nil {
		return err
	}
	if asked == nil {
		asked = &backupAsk{ID: newID()}
	}
	devices := t.verifiedOthers(own)
	if len(devices) == 0 || asked.Key != nil || asked.Tries >= maxBackupAsks || t.millis()-asked.At < askAgain.Milliseconds() {
		return nil
	}
	asked.At, asked.Tries = t.millis(), asked.Tries+1
	if err := t.save(keyBackupAsk, asked); err != nil {
		return err
	}
	return t.postSecret(devices, secretRequest{Name: secretBackup, Action: "request", ID: asked.ID, Device: t.m.device})
}

// receiveBackupKey takes the key of the backup from a verified own device; ours is false if it is another secret.
func (t *txn) receiveBackupKey(c *secretSend, seed []byte) (ours bool, err error) {
	asked, err := load[backupAsk](t, keyBackupAsk)
	if err != nil || asked == nil || asked.ID != c.ID {
		return false, err
	}
	own, err := loadUser(t, t.m.user)
	if err != nil {
		return true, err
	}
	asked.Key, asked.ID = seed, newID() // one answer is enough
	return true, errors.Join(t.save(keyBackupAsk, asked),
		t.postSecret(t.verifiedOthers(own), secretRequest{Action: "request_cancellation", ID: c.ID, Device: t.m.device}))
}

// giveBackupKey answers a verified own device, if this device knows the key.
func (t *txn) giveBackupKey(d *deviceRecord, r *serveRecord) error {
	b, err := load[backupRecord](t, keyBackup)
	if err != nil || b == nil || len(b.Key) == 0 {
		return err
	}
	return t.tell(&d.Device, "m.secret.send", secretSend{ID: r.Request, Secret: wire.Base64(b.Key)})
}

// ReceivedBackupKey is the key of the backup that another verified device of the user gave. UseBackup tells whether it is
// that of the backup on the server; if it is not, ForgetBackupKey has to follow.
func (m *Machine) ReceivedBackupKey() (key backup.Key, ok bool) {
	asked, err := load[backupAsk](m.vault, keyBackupAsk)
	if err != nil || asked == nil || asked.Key == nil {
		return backup.Key{}, false
	}
	key, err = backup.KeyFromBytes(asked.Key)
	return key, err == nil
}

// ForgetBackupKey drops what ReceivedBackupKey gave. The other devices are asked again after an hour.
func (m *Machine) ForgetBackupKey() error {
	err := m.update(func(t *txn) error {
		asked, err := load[backupAsk](t, keyBackupAsk)
		if err != nil || asked == nil {
			return err
		}
		asked.Key = nil
		return t.save(keyBackupAsk, asked)
	})
	if err != nil {
		return fmt.Errorf("forgetting a key of a backup: %w", err)
	}
	return nil
}
