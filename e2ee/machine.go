package e2ee

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/securecomm/securecomm/e2ee/identity"
	"github.com/securecomm/securecomm/e2ee/olm"
	"github.com/securecomm/securecomm/e2ee/vault"
	"github.com/securecomm/securecomm/e2ee/wire"
	"github.com/securecomm/securecomm/homeserver/id"
)

// The algorithms that the machine speaks.
const (
	OlmAlgorithm    = "m.olm.v1.curve25519-aes-sha2"
	MegolmAlgorithm = "m.megolm.v1.aes-sha2"

	oneTimeAlgorithm = "signed_curve25519"
)

// ErrOtherDevice says that a vault belongs to another user or device.
var ErrOtherDevice = errors.New("the vault belongs to another device")

// Machine is the cryptographic half of one device. Its methods may be called from several goroutines.
type Machine struct {
	vault    *vault.Vault
	user     id.UserID
	device   id.DeviceID
	identity olm.Key
	signing  ed25519.PublicKey
}

// The keys of the vault's records. Names that strangers choose are separated by a zero byte, which none
// of them contains.
const (
	keyAccount      = "e2ee/account"
	keySync         = "e2ee/sync"
	keyCrossSigning = "e2ee/cross-signing"
	keyBackup       = "e2ee/backup"
	keySecrets      = "e2ee/secrets"
	keyBackupAsk    = "e2ee/backup-ask"
	prefixUser      = "e2ee/user/"
	prefixOlm       = "e2ee/olm/"
	prefixOutbound  = "e2ee/outbound/"
	prefixInbound   = "e2ee/inbound/"
	prefixSeen      = "e2ee/seen/"
	prefixFlood     = "e2ee/flood/"
	prefixWithheld  = "e2ee/withheld/"
	prefixRequest   = "e2ee/request/"
	prefixServe     = "e2ee/serve/"
	prefixOutbox    = "e2ee/outbox/"
)

// Open opens the machine that a vault holds, or makes one there with fresh keys.
func Open(v *vault.Vault, user id.UserID, device id.DeviceID) (*Machine, error) {
	m := &Machine{vault: v, user: user, device: device}
	err := m.update(func(t *txn) error {
		a, err := load[accountRecord](t, keyAccount)
		if err != nil {
			return err
		}
		if a == nil {
			a = &accountRecord{User: user, Device: device, Account: olm.NewAccount()}
			if err := t.save(keyAccount, a); err != nil {
				return err
			}
		}
		if a.User != user || a.Device != device {
			return fmt.Errorf("%w: %s of %s", ErrOtherDevice, a.Device, a.User)
		}
		m.identity, m.signing = a.Account.Identity(), a.Account.Signing()
		return t.track(user)
	})
	if err != nil {
		return nil, fmt.Errorf("opening the encryption machine: %w", err)
	}
	return m, nil
}

// User is the user whose device this is.
func (m *Machine) User() id.UserID { return m.user }

// Device is the ID of this device.
func (m *Machine) Device() id.DeviceID { return m.device }

// Fingerprint is this device's signing key as people compare it.
func (m *Machine) Fingerprint() string { return wire.Base64(m.signing) }

// IdentityKey is this device's Curve25519 key.
func (m *Machine) IdentityKey() string { return m.identity.String() }

// SyncToken is the next_batch of the last ReceiveSync; empty if there was none.
func (m *Machine) SyncToken() string {
	token, _ := m.vault.Get(keySync)
	return string(token)
}

// txn is one transaction of the machine.
type txn struct {
	*vault.Tx
	m   *Machine
	now time.Time
}

func (m *Machine) update(change func(*txn) error) error {
	return m.vault.Update(func(tx *vault.Tx) error {
		return change(&txn{Tx: tx, m: m, now: time.Now()})
	})
}

// reader is a transaction, or the vault itself where only reading is needed.
type reader interface {
	Get(key string) ([]byte, bool)
	Keys(prefix string) []string
}

// load reads a record; nil if there is none.
func load[T any](r reader, key string) (*T, error) {
	raw, ok := r.Get(key)
	if !ok {
		return nil, nil
	}
	value := new(T)
	if err := json.Unmarshal(raw, value); err != nil {
		// The record's content is secret; its key says which it was.
		return nil, fmt.Errorf("the record %q of the vault is unreadable", key)
	}
	return value, nil
}

func (t *txn) save(key string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("storing %q: %w", key, err)
	}
	t.Put(key, raw)
	return nil
}

// join makes the rest of a key from names.
func join(room id.RoomID, name string) string { return string(room) + "\x00" + name }

func (t *txn) millis() int64 { return t.now.UnixMilli() }

// newID is a random name for requests and transactions.
func newID() string { return rand.Text() }

// accountRecord is what the machine keeps of its own device.
type accountRecord struct {
	User     id.UserID    `json:"user"`
	Device   id.DeviceID  `json:"device"`
	Account  *olm.Account `json:"account"`
	Uploaded bool         `json:"uploaded"` // the device's keys are on the server
	Count    int          `json:"count"`    // of one-time keys on the server, as far as is known
	Omits    bool         `json:"omits"`    // the server leaves out counts that are not zero
	// Fallback says that the server wants a new fallback key; Rotated is when the last one was made.
	Fallback bool  `json:"fallback"`
	Rotated  int64 `json:"rotated"`
}

func (t *txn) account() (*accountRecord, error) {
	a, err := load[accountRecord](t, keyAccount)
	if err == nil && a == nil {
		err = errors.New("the vault has no account")
	}
	return a, err
}

func (a *accountRecord) signer() identity.Signer {
	return identity.DeviceSigner(a.User, a.Device, a.Account)
}
