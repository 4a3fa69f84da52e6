package e2ee

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/securecomm/securecomm/e2ee/keyexport"
	"github.com/securecomm/securecomm/e2ee/megolm"
	"github.com/securecomm/securecomm/e2ee/olm"
	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	// maxClaims is how many devices may claim one session besides the first.
	maxClaims = 4
	// maxKeysPerDay is how many new keys one user can give this device in a day: enough for who changes the key
	// with every message, too few to fill the disk.
	maxKeysPerDay = 5000
)

// claim is a device that says that a session is its own. It is right about what its own user sent.
type claim struct {
	User      id.UserID `json:"user,omitempty"` // who sent it; empty if it came indirectly
	SenderKey olm.Key   `json:"sender_key"`
	Signing   string    `json:"signing"` // the Ed25519 key of the device that made it
}

// inboundRecord is a session whose messages can be read, and where it came from.
type inboundRecord struct {
	Session *megolm.Inbound `json:"session"`
	claim
	Also     []claim `json:"also,omitempty"`
	Indirect bool    `json:"indirect,omitempty"`  // by a backup, a file or another device
	BackedUp string  `json:"backed_up,omitempty"` // the version of the backup that has it
}

// claimOf is the claim of a user who is said to have sent a message; without one, the first claim.
func (in *inboundRecord) claimOf(sender id.UserID) claim {
	for _, c := range in.Also {
		if c.User == sender && in.User != sender {
			return c
		}
	}
	return in.claim
}

func inboundKey(room id.RoomID, session string) string { return prefixInbound + join(room, session) }

// keepRoomKey stores a session, unless the one that is there is as good.
func (t *txn) keepRoomKey(room id.RoomID, fresh *inboundRecord) (kept bool, err error) {
	key := inboundKey(room, fresh.Session.ID())
	old, err := load[inboundRecord](t, key)
	if err != nil {
		return false, err
	}
	if old != nil && !fresh.improve(old) {
		return false, nil
	}
	t.Delete(prefixWithheld + join(room, fresh.Session.ID()))
	if err := t.cancelRequest(room, fresh.Session.ID()); err != nil {
		return false, err
	}
	return true, t.save(key, fresh)
}

// improve merges what is there of a session into what came of it, and says whether that is worth keeping. A key that
// came directly bears the signature of the session's owner, so that it is genuine whoever passed it on; one that
// came indirectly may be made up, unless it is connected to one that came directly.
func (fresh *inboundRecord) improve(old *inboundRecord) bool {
	connected := old.Session.Connected(fresh.Session)
	earlier := fresh.Session.FirstIndex() < old.Session.FirstIndex()
	switch {
	case old.Indirect && !fresh.Indirect:
		if connected && !earlier {
			fresh.Session = old.Session
		}
		return true
	case !connected:
		return false // one of the two is forged; the first stays
	case fresh.Indirect && !old.Indirect:
		fresh.claim, fresh.Also, fresh.Indirect = old.claim, old.Also, false
		return earlier
	case fresh.Indirect:
		return earlier && fresh.SenderKey == old.SenderKey
	}
	// Members have the key too, and one of them may pass it off as his: who is right shows when a message comes.
	claimed := append([]claim{old.claim}, old.Also...)
	known := slices.Contains(claimed, fresh.claim)
	if !known {
		claimed = append(claimed, fresh.claim)
	}
	fresh.claim, fresh.Also = claimed[0], claimed[1:min(len(claimed), 1+maxClaims)]
	if !earlier {
		fresh.Session, fresh.BackedUp = old.Session, old.BackedUp
	}
	return earlier || !known && len(claimed) <= 1+maxClaims
}

// floodRecord counts the keys that a user gave in a day.
type floodRecord struct {
	Day   int64 `json:"day"`
	Count int   `json:"count"`
}

var errFlood = fmt.Errorf("more than %d keys of rooms in a day", maxKeysPerDay)

// countKey counts one more key of a user; the problem is that there are too many.
func (t *txn) countKey(user id.UserID) (problem, err error) {
	f, err := load[floodRecord](t, prefixFlood+string(user))
	if err != nil {
		return nil, err
	}
	if today := t.millis() / (24 * time.Hour).Milliseconds(); f == nil || f.Day != today {
		f = &floodRecord{Day: today}
	}
	if f.Count++; f.Count > maxKeysPerDay {
		return errFlood, nil
	}
	return nil, t.save(prefixFlood+string(user), f)
}

// roomKey is the content of m.room_key and, with what follows, of m.forwarded_room_key.
type roomKey struct {
	Algorithm  string    `json:"algorithm"`
	Room       id.RoomID `json:"room_id"`
	Session    string    `json:"session_id"`
	SessionKey string    `json:"session_key"`

	SenderKey *olm.Key  `json:"sender_key,omitempty"`
	Signing   string    `json:"sender_claimed_ed25519_key,omitempty"`
	Chain     *[]string `json:"forwarding_curve25519_key_chain,omitempty"`
}

func parseRoomKey(raw json.RawMessage) (*roomKey, error) {
	var k roomKey
	if json.Unmarshal(raw, &k) != nil || k.Algorithm != MegolmAlgorithm {
		return nil, errors.New("the key of a room is malformed")
	}
	if _, err := id.ParseRoomID(string(k.Room)); err != nil {
		return nil, fmt.Errorf("the key of a room: %w", err)
	}
	return &k, nil
}

func (t *txn) receiveRoomKey(from origin, raw json.RawMessage, got *Received) (problem, err error) {
	k, problem := parseRoomKey(raw)
	if problem != nil {
		return problem, nil
	}
	session, problem := megolm.NewInbound(k.SessionKey)
	if problem != nil {
		return problem, nil
	}
	if session.ID() != k.Session {
		return errors.New("the key of a room names another session"), nil
	}
	if problem, err := t.countKey(from.user); problem != nil || err != nil {
		return problem, err
	}
	t.Delete(noOlmKey(from.user, from.key.String())) // it can reach this device again
	kept, err := t.keepRoomKey(k.Room, &inboundRecord{Session: session, claim: claim{User: from.user, SenderKey: from.key, Signing: from.signing}})
	if kept {
		got.RoomKeys++
	}
	return nil, err
}

// receiveForwarded takes a key from another own device, if that is verified and was asked.
func (t *txn) receiveForwarded(from origin, raw json.RawMessage, got *Received) (problem, err error) {
	k, problem := parseRoomKey(raw)
	if problem != nil {
		return problem, nil
	}
	device, err := t.verifiedOwn(from)
	if err != nil {
		return nil, err
	}
	asked, err := load[requestRecord](t, prefixRequest+join(k.Room, k.Session))
	if err != nil {
		return nil, err
	}
	if device == nil || asked == nil || k.SenderKey == nil || k.Signing == "" {
		return errors.New("a forwarded key that was not asked for, or not of a verified device"), nil
	}
	session, problem := megolm.Import(k.SessionKey)
	if problem != nil {
		return problem, nil
	}
	if session.ID() != k.Session {
		return errors.New("a forwarded key names another session"), nil
	}
	kept, err := t.keepRoomKey(k.Room, &inboundRecord{Session: session, claim: claim{SenderKey: *k.SenderKey, Signing: k.Signing}, Indirect: true})
	if kept {
		got.RoomKeys++
	}
	return nil, err
}

// verifiedOwn is the verified device of this user that a message came from; nil if it is none.
func (t *txn) verifiedOwn(from origin) (*deviceRecord, error) {
	own, err := loadUser(t, t.m.user)
	if err != nil || from.user != t.m.user {
		return nil, err
	}
	for _, d := range own.Devices {
		if !d.Gone && d.Identity == from.key && d.Fingerprint() == from.signing && t.m.deviceTrust(own, d).Level == Green {
			return d, nil
		}
	}
	return nil, nil
}

// ExportRoomKeys are the keys of all messages that this device can read.
func (m *Machine) ExportRoomKeys() ([]keyexport.Session, error) {
	var all []keyexport.Session
	for _, key := range m.vault.Keys(prefixInbound) {
		in, err := load[inboundRecord](m.vault, key)
		if err != nil {
			return nil, fmt.Errorf("exporting keys of rooms: %w", err)
		}
		one, err := in.export(roomOf(key))
		if err != nil {
			return nil, fmt.Errorf("exporting keys of rooms: %w", err)
		}
		all = append(all, one)
	}
	return all, nil
}

// ImportRoomKeys takes keys of messages from a file or a backup, and says how many are new. They are as genuine
// as where they come from; messages read with them are yellow at best.
func (m *Machine) ImportRoomKeys(sessions []keyexport.Session) (int, error) {
	count := 0
	err := m.update(func(t *txn) error {
		for _, s := range sessions {
			kept, err := t.importRoomKey(s, "")
			if err != nil {
				return err
			}
			if kept {
				count++
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("importing keys of rooms: %w", err)
	}
	return count, nil
}

// importRoomKey takes one key; what is malformed is left out.
func (t *txn) importRoomKey(s keyexport.Session, backedUp string) (kept bool, err error) {
	senderKey, keyErr := olm.ParseKey(s.SenderKey)
	session, sessionErr := megolm.Import(s.SessionKey)
	_, roomErr := id.ParseRoomID(string(s.RoomID))
	if s.Algorithm != MegolmAlgorithm || keyErr != nil || sessionErr != nil || roomErr != nil || session.ID() != s.SessionID {
		return false, nil
	}
	return t.keepRoomKey(s.RoomID, &inboundRecord{Session: session,
		claim: claim{SenderKey: senderKey, Signing: s.SenderClaimedKeys["ed25519"]}, Indirect: true, BackedUp: backedUp})
}

func (in *inboundRecord) export(room id.RoomID) (keyexport.Session, error) {
	key, err := in.Session.Export(in.Session.FirstIndex())
	if err != nil {
		return keyexport.Session{}, err
	}
	return keyexport.Session{Algorithm: MegolmAlgorithm, RoomID: room, SessionID: in.Session.ID(), SessionKey: key,
		SenderKey: in.SenderKey.String(), SenderClaimedKeys: map[string]string{"ed25519": in.Signing}, ForwardingChain: []string{}}, nil
}
