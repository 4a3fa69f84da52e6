package e2ee

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/securecomm/securecomm/e2ee/megolm"
	"github.com/securecomm/securecomm/e2ee/olm"
	"github.com/securecomm/securecomm/homeserver/id"
)

var (
	// ErrNoKey says that the key of a message is not here. It may come later.
	ErrNoKey = errors.New("the key of the message is not here")
	// ErrReplayed says that a message was seen before as another event: somebody sent it again.
	ErrReplayed = errors.New("the message is a copy of another one")
	// ErrUndecryptable is wrapped by all other refusals to decrypt a message.
	ErrUndecryptable = errors.New("the message can not be decrypted")
)

// Decrypted is a message in the clear.
type Decrypted struct {
	Type    string
	Content json.RawMessage
	Device  id.DeviceID // of the sender; empty if it is not known
	Trust   Trust

	// PutBack says that the message proves the vault to be an older copy of itself. Its sessions are given up by then: what
	// is sent from now on is encrypted by new ones.
	PutBack bool
}

// roomEvent is an m.room.encrypted event of a room.
type roomEvent struct {
	ID        id.EventID `json:"event_id"`
	Sender    id.UserID  `json:"sender"`
	Timestamp int64      `json:"origin_server_ts"`
	Content   struct {
		Algorithm  string `json:"algorithm"`
		Ciphertext string `json:"ciphertext"`
		Session    string `json:"session_id"`
		SenderKey  string `json:"sender_key"`
	} `json:"content"`
}

// DecryptRoomEvent decrypts an event of a room. If its key is not here, the own verified devices are asked for it
// by way of the outbox, once.
func (m *Machine) DecryptRoomEvent(room id.RoomID, event json.RawMessage) (*Decrypted, error) {
	var e roomEvent
	if json.Unmarshal(event, &e) != nil || e.Content.Algorithm != MegolmAlgorithm || e.ID == "" || strings.ContainsRune(e.Content.Session, 0) {
		return nil, fmt.Errorf("%w: it is malformed, or encrypted in an unknown way", ErrUndecryptable)
	}
	var got *Decrypted
	var refused error // is answered, but what was noted meanwhile is kept
	err := m.update(func(t *txn) (err error) {
		got, refused, err = t.decryptRoomEvent(room, &e)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("decrypting an event of %s: %w", room, err)
	}
	return got, refused
}

func (t *txn) decryptRoomEvent(room id.RoomID, e *roomEvent) (got *Decrypted, refused, err error) {
	in, err := load[inboundRecord](t, inboundKey(room, e.Content.Session))
	if err != nil {
		return nil, nil, err
	}
	if in == nil {
		reason, err := t.withheldReason(room, e)
		if err != nil {
			return nil, nil, err
		}
		return nil, reason, t.request(room, e.Content.Session)
	}
	plaintext, index, err := in.Session.Decrypt(e.Content.Ciphertext)
	if errors.Is(err, megolm.ErrUnknownIndex) {
		return nil, fmt.Errorf("%w: %w", ErrNoKey, err), t.request(room, e.Content.Session)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUndecryptable, err), nil
	}
	if index > maxIndex {
		return nil, fmt.Errorf("%w: its key was used for too many messages", ErrUndecryptable), nil
	}
	seen := newSeen(room, e, index)
	if seen.replayed(t) {
		return nil, ErrReplayed, nil
	}
	var p struct {
		Type    string          `json:"type"`
		Content json.RawMessage `json:"content"`
		Room    id.RoomID       `json:"room_id"`
	}
	if json.Unmarshal(plaintext, &p) != nil || p.Type == "" || p.Content == nil {
		return nil, fmt.Errorf("%w: its plaintext is malformed", ErrUndecryptable), nil
	}
	if p.Room != room {
		return nil, fmt.Errorf("%w: it was meant for another room", ErrUndecryptable), nil
	}
	seen.note(t)
	device, trust, err := t.messageTrust(in, e.Sender)
	if err != nil {
		return nil, nil, err
	}
	putBack, err := t.putBack(room, e.Content.Session, index)
	return &Decrypted{Type: p.Type, Content: p.Content, Device: device, Trust: trust, PutBack: putBack}, nil, err
}

// messageTrust is what to think of a message of a session that claims to come from a user.
func (t *txn) messageTrust(in *inboundRecord, sender id.UserID) (id.DeviceID, Trust, error) {
	from := in.claimOf(sender)
	if from.User != "" && from.User != sender {
		return "", Trust{Red, ReasonOtherSender}, nil
	}
	if !in.Indirect && sender == t.m.user && from.SenderKey == t.m.identity && from.Signing == t.m.Fingerprint() {
		return t.m.device, Trust{Green, ReasonOwnDevice}, nil
	}
	u, err := loadUser(t, sender)
	if err != nil {
		return "", Trust{}, err
	}
	d := u.deviceOf(from.SenderKey, from.Signing)
	if d == nil {
		return "", Trust{Red, ReasonUnknownDevice}, nil
	}
	trust := t.m.deviceTrust(u, d)
	if in.Indirect && trust.Level != Red {
		// Whoever gave the key could have made it up: it says who sent it, but does not prove it.
		trust = Trust{Yellow, ReasonIndirect}
	}
	return d.ID, trust, nil
}

// deviceOf is the device with these two keys, even if it is gone; nil if there is none.
func (u *userRecord) deviceOf(key olm.Key, signing string) *deviceRecord {
	for _, d := range u.Devices {
		if d.Identity == key && d.Fingerprint() == signing {
			return d
		}
	}
	return nil
}
