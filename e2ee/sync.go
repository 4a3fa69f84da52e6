package e2ee

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/securecomm/securecomm/e2ee/olm"
	"github.com/securecomm/securecomm/homeserver/id"
)

// maxToDevice is the largest to-device event in bytes that is looked at.
const maxToDevice = 1 << 20

// Sync is what an answer to /sync says to the encryption.
type Sync struct {
	ToDevice       []json.RawMessage
	Changed, Left  []id.UserID    // of device_lists
	OneTimeKeys    map[string]int // device_one_time_keys_count
	UnusedFallback []string       // device_unused_fallback_key_types; nil if the server said nothing
	Next           string         // next_batch
}

// Received is what a sync brought.
type Received struct {
	RoomKeys int     // how many keys of rooms are new; messages that waited for them may be readable now
	Problems []error // to-device events that were set aside

	// Verifications are the messages of verifications (package verify), of which the machine knows nothing. They
	// are not kept: who is not verifying when they come has to begin anew.
	Verifications []Verification
}

// Verification is one message of a verification. Its sender is who the server says.
type Verification struct {
	Sender  id.UserID
	Type    string
	Content json.RawMessage
}

const (
	verificationPrefix = "m.key.verification."
	// maxVerifications bounds the messages of verifications in one sync; the rest is left out.
	maxVerifications = 200
)

// ReceiveSync takes in an answer to /sync, all of it and its token, or nothing. An event that can't be read is
// set aside; the others count.
func (m *Machine) ReceiveSync(s Sync) (*Received, error) {
	got := &Received{}
	if err := m.update(func(t *txn) error { return t.receiveSync(s, got) }); err != nil {
		return nil, fmt.Errorf("taking in a sync: %w", err)
	}
	return got, nil
}

func (t *txn) receiveSync(s Sync, got *Received) error {
	if err := t.deviceLists(s.Changed, s.Left); err != nil {
		return err
	}
	if err := t.syncKeys(s.OneTimeKeys, s.UnusedFallback); err != nil {
		return err
	}
	for _, raw := range s.ToDevice {
		problem, err := t.receive(raw, got)
		if err != nil {
			return err
		}
		if problem != nil {
			got.Problems = append(got.Problems, problem)
		}
	}
	if err := errors.Join(t.serveRequests(), t.askSecrets(), t.askBackupKey()); err != nil {
		return err
	}
	t.Put(keySync, []byte(s.Next))
	return nil
}

// receive takes in one to-device event. The problem is what is wrong with the event.
func (t *txn) receive(raw json.RawMessage, got *Received) (problem, err error) {
	var e struct {
		Type    string          `json:"type"`
		Sender  id.UserID       `json:"sender"`
		Content json.RawMessage `json:"content"`
	}
	if len(raw) > maxToDevice {
		return fmt.Errorf("a message to this device is larger than %d bytes", maxToDevice), nil
	}
	if json.Unmarshal(raw, &e) != nil {
		return errors.New("a message to this device is malformed"), nil
	}
	if _, err := id.ParseUserID(string(e.Sender)); err != nil {
		return fmt.Errorf("a message to this device: %w", err), nil
	}
	if strings.HasPrefix(e.Type, verificationPrefix) && len(got.Verifications) < maxVerifications {
		got.Verifications = append(got.Verifications, Verification{e.Sender, e.Type, e.Content})
	}
	switch e.Type {
	case "m.room.encrypted":
		problem, err = t.receiveSealed(e.Sender, e.Content, got)
	case "m.room_key.withheld":
		problem, err = t.receiveWithheld(e.Sender, e.Content)
	case "m.room_key_request":
		problem, err = t.receiveRequest(e.Sender, e.Content)
	case "m.secret.request":
		problem, err = t.receiveSecretRequest(e.Sender, e.Content)
	}
	if problem != nil {
		problem = fmt.Errorf("a message %s from %s: %w", e.Type, e.Sender, problem)
	}
	return problem, err
}

// origin is who sent an encrypted message, as far as the encryption itself shows.
type origin struct {
	user    id.UserID
	key     olm.Key
	signing string // the Ed25519 key that the message claims
}

func (t *txn) receiveSealed(sender id.UserID, raw json.RawMessage, got *Received) (problem, err error) {
	var c olmContent
	if json.Unmarshal(raw, &c) != nil {
		return errors.New("it is malformed"), nil
	}
	p, problem, err := t.unseal(sender, &c)
	if problem != nil || err != nil {
		return problem, err
	}
	// Devices of those who write to us are followed, since their keys decide how far they are trusted.
	if err := t.track(sender); err != nil {
		return nil, err
	}
	from := origin{user: sender, key: c.SenderKey, signing: p.Keys["ed25519"]}
	switch p.Type {
	case "m.room_key":
		return t.receiveRoomKey(from, p.Content, got)
	case "m.forwarded_room_key":
		return t.receiveForwarded(from, p.Content, got)
	case "m.secret.send":
		return t.receiveSecret(from, p.Content)
	}
	return nil, nil // m.dummy, and what is not known here
}

// Republish makes the next KeysUpload give the device's keys again: after a login that renews a session whose
// device the server had deleted.
func (m *Machine) Republish() error {
	err := m.update(func(t *txn) error {
		a, err := t.account()
		if err != nil {
			return err
		}
		a.Uploaded, a.Count = false, 0
		return t.save(keyAccount, a)
	})
	if err != nil {
		return fmt.Errorf("preparing to publish the keys again: %w", err)
	}
	return nil
}
