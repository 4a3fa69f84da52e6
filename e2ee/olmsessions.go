package e2ee

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/securecomm/securecomm/e2ee/identity"
	"github.com/securecomm/securecomm/e2ee/olm"
	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	// maxOlmSessions is how many sessions with one device are kept; two are normal when both sides start one.
	maxOlmSessions = 5
	// claimRetry is how long a device that had no one-time key is left alone.
	claimRetry = 5 * time.Minute
	// maxConversations is how many devices of one user are kept sessions with. Who starts sessions as ever new
	// devices finds the ones that are no known device's forgotten.
	maxConversations = 200
	// unwedgeEvery is how often at most a broken conversation with a device is begun anew.
	unwedgeEvery = time.Hour
)

// olmRecord is the conversation with one device. It stands under its user and its Curve25519 key: anybody may claim
// somebody else's key for a device, and must not get between two others by that.
type olmRecord struct {
	Sessions  []*olm.Session `json:"sessions,omitempty"` // the one to send with comes first
	RetryAt   int64          `json:"retry_at,omitempty"` // when to claim again
	Wedged    bool           `json:"wedged,omitempty"`   // a new session is needed, since the other side's don't fit
	UnwedgeAt int64          `json:"unwedge_at,omitempty"`
}

func olmKey(user id.UserID, key olm.Key) string {
	return prefixOlm + string(user) + "\x00" + key.String()
}

func loadOlm(r reader, user id.UserID, key olm.Key) (*olmRecord, error) {
	o, err := load[olmRecord](r, olmKey(user, key))
	if o == nil && err == nil {
		o = &olmRecord{}
	}
	return o, err
}

// prefer makes a session the one to send with.
func (o *olmRecord) prefer(s *olm.Session) {
	o.Sessions = slices.DeleteFunc(o.Sessions, func(old *olm.Session) bool { return old == s })
	o.Sessions = slices.Insert(o.Sessions, 0, s)
	if len(o.Sessions) > maxOlmSessions {
		o.Sessions = o.Sessions[:maxOlmSessions]
	}
}

// KeyClaim is a request to /keys/claim. Its marshalled form is the body.
type KeyClaim struct{ devices []DeviceRef }

// MarshalJSON is the body of POST /keys/claim.
func (c *KeyClaim) MarshalJSON() ([]byte, error) {
	wanted := map[id.UserID]map[id.DeviceID]string{}
	for _, ref := range c.devices {
		if wanted[ref.User] == nil {
			wanted[ref.User] = map[id.DeviceID]string{}
		}
		wanted[ref.User][ref.Device] = oneTimeAlgorithm
	}
	return json.Marshal(map[string]any{"one_time_keys": wanted, "timeout": 10_000})
}

// KeysToClaim returns the request for one-time keys of all devices of users that no session exists with, and of
// those whose sessions are broken; nil if there are none.
func (m *Machine) KeysToClaim(users ...id.UserID) (*KeyClaim, error) {
	claim := &KeyClaim{}
	now := time.Now().UnixMilli()
	asked := map[id.UserID]bool{}
	for _, user := range users {
		asked[user] = true
	}
	requesting, err := wanting(m.vault)
	if err != nil {
		return nil, fmt.Errorf("finding devices without a session: %w", err)
	}
	for _, key := range m.vault.Keys(prefixUser) {
		u, err := load[userRecord](m.vault, key)
		if err != nil {
			return nil, fmt.Errorf("finding devices without a session: %w", err)
		}
		for device, d := range u.Devices {
			// Nothing is ever sent to red devices, so that a session with one is a one-time key wasted.
			if d.Gone || u.ID == m.user && device == m.device || m.deviceTrust(u, d).Level == Red {
				continue
			}
			o, err := loadOlm(m.vault, u.ID, d.Identity)
			if err != nil {
				return nil, fmt.Errorf("finding devices without a session: %w", err)
			}
			wanted := len(o.Sessions) == 0 && (asked[u.ID] || u.ID == m.user && requesting[device])
			if (wanted || o.Wedged) && o.RetryAt <= now {
				claim.devices = append(claim.devices, DeviceRef{u.ID, device})
			}
		}
	}
	if len(claim.devices) == 0 {
		return nil, nil
	}
	return claim, nil
}

// ReceiveKeysClaim takes the answer to a request and starts the sessions. Devices that got no key, or one that
// they did not sign, are among the problems; nothing can be sent to them for now.
func (m *Machine) ReceiveKeysClaim(c *KeyClaim, answer []byte) (problems []error, err error) {
	var a claimAnswer
	if err := json.Unmarshal(answer, &a); err != nil {
		return nil, fmt.Errorf("reading the answer to a key claim: %w", err)
	}
	err = m.update(func(t *txn) (err error) {
		problems, err = t.beginAll(c, &a)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("starting sessions: %w", err)
	}
	return problems, nil
}

type claimAnswer struct {
	Keys each[id.UserID, each[id.DeviceID, map[string]json.RawMessage]] `json:"one_time_keys"`
}

func (t *txn) beginAll(c *KeyClaim, a *claimAnswer) (problems []error, err error) {
	account, err := t.account()
	if err != nil {
		return nil, err
	}
	for _, ref := range c.devices {
		problem, err := t.begin(account.Account, ref, a.Keys[ref.User][ref.Device])
		if err != nil {
			return nil, err
		}
		if problem != nil {
			problems = append(problems, fmt.Errorf("device %s of %s: %w", ref.Device, ref.User, problem))
		}
	}
	return problems, t.serveRequests()
}

var errNoOneTimeKey = errors.New("it has no one-time key left")

// begin starts a session with a device by the key that was claimed.
func (t *txn) begin(account *olm.Account, ref DeviceRef, keys map[string]json.RawMessage) (problem, err error) {
	u, err := loadUser(t, ref.User)
	if err != nil {
		return nil, err
	}
	d := u.Devices[ref.Device]
	if d == nil || d.Gone {
		return ErrUnknown, nil
	}
	o, err := loadOlm(t, d.User, d.Identity)
	if err != nil {
		return nil, err
	}
	problem = errNoOneTimeKey
	for _, raw := range keys { // the server was asked for one
		var key olm.Key
		if key, problem = d.OneTimeKey(raw); problem != nil {
			break
		}
		var s *olm.Session
		if s, problem = account.NewOutbound(d.Identity, key); problem == nil {
			o.prefer(s)
		}
		break
	}
	if problem != nil {
		o.RetryAt = t.now.Add(claimRetry).UnixMilli()
		return problem, t.save(olmKey(d.User, d.Identity), o)
	}
	wedged := o.Wedged
	o.Wedged, o.RetryAt = false, 0
	if err := t.save(olmKey(d.User, d.Identity), o); err != nil || !wedged {
		return nil, err
	}
	// The other side learns of the new session by a message in it that says nothing.
	return nil, t.tell(&d.Device, "m.dummy", struct{}{})
}

// olmContent is the content of a to-device event m.room.encrypted.
type olmContent struct {
	Algorithm  string                 `json:"algorithm"`
	SenderKey  olm.Key                `json:"sender_key"`
	Ciphertext map[string]olm.Message `json:"ciphertext"`
	MessageID  string                 `json:"org.matrix.msgid,omitempty"`
}

// olmPayload is what is encrypted in it.
type olmPayload struct {
	Type          string            `json:"type"`
	Content       json.RawMessage   `json:"content"`
	Sender        id.UserID         `json:"sender"`
	SenderDevice  id.DeviceID       `json:"sender_device,omitempty"`
	Recipient     id.UserID         `json:"recipient"`
	RecipientKeys map[string]string `json:"recipient_keys"`
	Keys          map[string]string `json:"keys"`
}

// errNoSession says that there is no Olm session with a device.
var errNoSession = errors.New("there is no session with the device")

// seal encrypts a message to a device. The session is stored with the transaction, so before it leaves.
func (t *txn) seal(d *identity.Device, kind string, content any) (*olmContent, error) {
	o, err := loadOlm(t, d.User, d.Identity)
	if err != nil {
		return nil, err
	}
	if len(o.Sessions) == 0 {
		return nil, errNoSession
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", kind, err)
	}
	payload, err := json.Marshal(olmPayload{
		Type: kind, Content: raw, Sender: t.m.user, SenderDevice: t.m.device, Recipient: d.User,
		RecipientKeys: map[string]string{"ed25519": d.Fingerprint()},
		Keys:          map[string]string{"ed25519": t.m.Fingerprint()},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", kind, err)
	}
	sealed, err := o.Sessions[0].Encrypt(payload)
	if err != nil {
		return nil, err
	}
	if err := t.save(olmKey(d.User, d.Identity), o); err != nil {
		return nil, err
	}
	return &olmContent{Algorithm: OlmAlgorithm, SenderKey: t.m.identity, MessageID: newID(),
		Ciphertext: map[string]olm.Message{d.Identity.String(): sealed}}, nil
}

// tell puts an encrypted message to one device into the outbox.
func (t *txn) tell(d *identity.Device, kind string, content any) error {
	sealed, err := t.seal(d, kind, content)
	if err != nil {
		return err
	}
	to := recipients{}
	to.add(d.User, d.ID, sealed)
	return t.post("m.room.encrypted", to)
}

// unseal decrypts a message from a device; the problem is what is wrong with it. A message that decrypts but says
// something else than it should has turned the ratchet all the same. The signing key that the payload claims is
// the one of the device with this Curve25519 key: what it says besides is checked by the caller.
func (t *txn) unseal(sender id.UserID, c *olmContent) (p *olmPayload, problem, err error) {
	m, ok := c.Ciphertext[t.m.identity.String()]
	if !ok || c.Algorithm != OlmAlgorithm {
		return nil, errors.New("it is not encrypted for this device"), nil
	}
	o, err := loadOlm(t, sender, c.SenderKey)
	if err != nil {
		return nil, nil, err
	}
	account, err := t.account()
	if err != nil {
		return nil, nil, err
	}
	plaintext, problem := o.open(account.Account, c.SenderKey, m)
	if problem != nil {
		return nil, problem, t.wedge(sender, c.SenderKey)
	}
	if err := t.forgetStrangers(sender, c.SenderKey); err != nil {
		return nil, nil, err
	}
	// Together: the private half of a one-time key is gone as soon as its session is there.
	if err := errors.Join(t.save(olmKey(sender, c.SenderKey), o), t.save(keyAccount, account)); err != nil {
		return nil, nil, err
	}
	p = &olmPayload{}
	if json.Unmarshal(plaintext, p) != nil {
		return nil, errors.New("its plaintext is malformed"), nil
	}
	if p.Sender != sender || p.Recipient != t.m.user || p.RecipientKeys["ed25519"] != t.m.Fingerprint() || p.Keys["ed25519"] == "" {
		return nil, errors.New("its plaintext was meant for another sender or recipient"), nil
	}
	return p, nil, nil
}

// forgetStrangers makes room for one more conversation with a device of a user, if there are too many.
func (t *txn) forgetStrangers(user id.UserID, fresh olm.Key) error {
	if _, old := t.Get(olmKey(user, fresh)); old {
		return nil
	}
	all := t.Keys(prefixOlm + string(user) + "\x00")
	if len(all) < maxConversations {
		return nil
	}
	u, err := loadUser(t, user)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, d := range u.Devices {
		known[olmKey(user, d.Identity)] = !d.Gone
	}
	for _, key := range all {
		if !known[key] {
			t.Delete(key)
		}
	}
	return nil
}

// open decrypts a message by one of the sessions, or by a new one that it begins.
func (o *olmRecord) open(account *olm.Account, sender olm.Key, m olm.Message) ([]byte, error) {
	for _, s := range o.Sessions {
		if plaintext, err := s.Decrypt(m); err == nil {
			o.prefer(s)
			return plaintext, nil
		}
	}
	if m.Type != olm.TypePreKey {
		return nil, errNoSession
	}
	if p, err := olm.ParsePreKey(m); err == nil && slices.ContainsFunc(o.Sessions, func(s *olm.Session) bool { return s.Matches(p) }) {
		return nil, errReplayed
	}
	s, plaintext, err := account.NewInbound(sender, m)
	if err != nil {
		return nil, err
	}
	o.prefer(s)
	return plaintext, nil
}

// errReplayed says that a message of a known session could not be read: it was read before, or is not genuine.
var errReplayed = errors.New("it belongs to a known session and was read before, or is not genuine")

// wedge notes that a device's messages can't be read, so that a new session is begun with it.
func (t *txn) wedge(sender id.UserID, key olm.Key) error {
	u, err := loadUser(t, sender)
	if err != nil {
		return err
	}
	for _, d := range u.Devices {
		if d.Identity != key || d.Gone {
			continue
		}
		o, err := loadOlm(t, sender, key)
		if err != nil {
			return err
		}
		if o.UnwedgeAt > t.millis() {
			return nil
		}
		o.Wedged, o.UnwedgeAt = true, t.now.Add(unwedgeEvery).UnixMilli()
		return t.save(olmKey(sender, key), o)
	}
	return nil // a device that is not known can't be answered
}
