package e2ee

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/securecomm/securecomm/e2ee/backup"
	"github.com/securecomm/securecomm/e2ee/identity"
	"github.com/securecomm/securecomm/e2ee/keyexport"
	"github.com/securecomm/securecomm/homeserver/id"
)

// maxBatch is how many sessions one upload to the backup has.
const maxBatch = 100

// ErrOtherBackup says that a key does not belong to a backup.
var ErrOtherBackup = errors.New("the recovery key is not that of the backup")

// backupRecord is the backup that this device adds to.
type backupRecord struct {
	Version string `json:"version"`
	Public  string `json:"public"`
	Key     []byte `json:"key,omitempty"` // the private half, for the user's other verified devices
}

// BackupData is the property auth_data of a backup.
type BackupData struct {
	PublicKey  string                            `json:"public_key"`
	Signatures map[id.UserID]map[id.KeyID]string `json:"signatures,omitempty"`
}

// NewBackup is the auth_data for a new backup with a key, signed by this device and by the user's identity if its
// private keys are here.
func (m *Machine) NewBackup(key backup.Key) (json.RawMessage, error) {
	var data json.RawMessage
	err := m.update(func(t *txn) error {
		a, err := t.account()
		if err != nil {
			return err
		}
		bare, err := json.Marshal(BackupData{PublicKey: key.Public().String()})
		if err != nil {
			return err
		}
		if data, err = identity.SignJSON(bare, a.signer()); err != nil {
			return err
		}
		c, err := t.crossSigning()
		if err != nil || c.Private == nil {
			return err
		}
		master, err := c.Private.Signer(m.user, identity.Master)
		if err != nil {
			return err
		}
		data, err = identity.SignJSON(data, master)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("preparing a backup: %w", err)
	}
	return data, nil
}

// UseBackup makes this device add to a backup. The key proves that it is the user's; a backup that a server
// offers is used by nothing less.
func (m *Machine) UseBackup(version string, authData json.RawMessage, key backup.Key) error {
	var data BackupData
	if json.Unmarshal(authData, &data) != nil || data.PublicKey != key.Public().String() {
		return ErrOtherBackup
	}
	return m.update(func(t *txn) error {
		t.Delete(keyBackupAsk)
		return t.save(keyBackup, backupRecord{Version: version, Public: data.PublicKey, Key: key.Bytes()})
	})
}

// BackupVersion is the version of the backup that this device adds to; empty if none.
func (m *Machine) BackupVersion() string {
	b, err := load[backupRecord](m.vault, keyBackup)
	if err != nil || b == nil {
		return ""
	}
	return b.Version
}

// StopBackup makes this device add to no backup any more.
func (m *Machine) StopBackup() error {
	return m.update(func(t *txn) error {
		t.Delete(keyBackup)
		return nil
	})
}

// BackupBatch is some sessions for the backup. Its marshalled form is the body of PUT /room_keys/keys.
type BackupBatch struct {
	Version string
	rooms   map[id.RoomID]map[string]backedSession
}

type backedSession struct {
	FirstIndex uint32      `json:"first_message_index"`
	Forwarded  int         `json:"forwarded_count"`
	Verified   bool        `json:"is_verified"`
	Data       backup.Data `json:"session_data"`
}

type backedRooms struct {
	Rooms each[id.RoomID, struct {
		Sessions each[string, backedSession] `json:"sessions"`
	}] `json:"rooms"`
}

// MarshalJSON is the body of PUT /room_keys/keys.
func (b *BackupBatch) MarshalJSON() ([]byte, error) {
	rooms := map[id.RoomID]any{}
	for room, sessions := range b.rooms {
		rooms[room] = map[string]any{"sessions": sessions}
	}
	return json.Marshal(map[string]any{"rooms": rooms})
}

// BackupNext are the next sessions that the backup lacks; nil if it has all, or there is none.
func (m *Machine) BackupNext() (*BackupBatch, error) {
	b, err := load[backupRecord](m.vault, keyBackup)
	if err != nil || b == nil {
		return nil, err
	}
	public, err := backup.ParsePublicKey(b.Public)
	if err != nil {
		return nil, err
	}
	batch, count := &BackupBatch{Version: b.Version, rooms: map[id.RoomID]map[string]backedSession{}}, 0
	for _, key := range m.vault.Keys(prefixInbound) {
		in, err := load[inboundRecord](m.vault, key)
		if err != nil {
			return nil, fmt.Errorf("finding keys for the backup: %w", err)
		}
		if in.BackedUp == b.Version {
			continue
		}
		room := roomOf(key)
		one, err := in.back(room, public)
		if err != nil {
			return nil, fmt.Errorf("encrypting for the backup: %w", err)
		}
		if batch.rooms[room] == nil {
			batch.rooms[room] = map[string]backedSession{}
		}
		batch.rooms[room][in.Session.ID()] = one
		if count++; count == maxBatch {
			break
		}
	}
	if count == 0 {
		return nil, nil
	}
	return batch, nil
}

// roomOf is the room in the key of an inbound session.
func roomOf(key string) id.RoomID {
	room, _, _ := strings.Cut(strings.TrimPrefix(key, prefixInbound), "\x00")
	return id.RoomID(room)
}

func (in *inboundRecord) back(room id.RoomID, public backup.PublicKey) (backedSession, error) {
	s, err := in.export(room)
	if err != nil {
		return backedSession{}, err
	}
	s.RoomID, s.SessionID = "", "" // they stand outside
	plaintext, err := json.Marshal(s)
	if err != nil {
		return backedSession{}, err
	}
	data, err := public.Encrypt(plaintext)
	return backedSession{FirstIndex: in.Session.FirstIndex(), Verified: !in.Indirect, Data: data}, err
}

// MarkBackedUp notes that the server took a batch.
func (m *Machine) MarkBackedUp(b *BackupBatch) error {
	return m.update(func(t *txn) error {
		for room, sessions := range b.rooms {
			for session := range sessions {
				in, err := load[inboundRecord](t, inboundKey(room, session))
				if err != nil {
					return err
				}
				if in == nil {
					continue
				}
				in.BackedUp = b.Version
				if err := t.save(inboundKey(room, session), in); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// RestoreBackup reads the answer to GET /room_keys/keys and says how many keys are new. Sessions that do not
// decrypt are left out.
func (m *Machine) RestoreBackup(version string, key backup.Key, answer json.RawMessage) (int, error) {
	var all backedRooms
	if err := json.Unmarshal(answer, &all); err != nil {
		return 0, fmt.Errorf("reading the backup: %w", err)
	}
	count := 0
	err := m.update(func(t *txn) (err error) {
		count, err = t.restore(version, key, &all)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("restoring the backup: %w", err)
	}
	return count, nil
}

func (t *txn) restore(version string, key backup.Key, all *backedRooms) (count int, err error) {
	for room, sessions := range all.Rooms {
		for name, one := range sessions.Sessions {
			plaintext, err := key.Decrypt(one.Data)
			if err != nil {
				continue
			}
			var s keyexport.Session
			if json.Unmarshal(plaintext, &s) != nil {
				continue
			}
			s.RoomID, s.SessionID = room, name
			kept, err := t.importRoomKey(s, version)
			if err != nil {
				return 0, err
			}
			if kept {
				count++
			}
		}
	}
	return count, nil
}
