package e2ee

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/securecomm/securecomm/e2ee/megolm"
	"github.com/securecomm/securecomm/e2ee/olm"
	"github.com/securecomm/securecomm/homeserver/id"
)

// How long a session is used where the room does not say, and the bounds for what it says.
const (
	defaultMessages = 100
	defaultAge      = 7 * 24 * time.Hour
	maxMessages     = 10_000
	minAge          = time.Hour
	maxAge          = 28 * 24 * time.Hour
)

// ErrNotShared says that a room's key was not shared yet, or has to be changed first.
var ErrNotShared = errors.New("the room's key has to be shared first")

// Sharing says with whom and how a room's key is to be shared.
type Sharing struct {
	Members      []id.UserID   // who is to read
	Visibility   string        // the room's history visibility; when it changes, so does the key
	MaxMessages  int64         // rotation_period_msgs; 0 for the default
	MaxAge       time.Duration // rotation_period_ms; 0 for the default
	VerifiedOnly bool          // leave out devices that are not verified

	// Verifying is a user whose devices get the key though they are red, but for blocked ones: what is sent is the
	// verification by which that can change (Client-Server API, "Key verification framework"). The key is changed before
	// anything else is sent.
	Verifying id.UserID
}

// Withheld is a device that does not get the key, and why.
type Withheld struct {
	DeviceRef
	Code   string // of m.room_key.withheld
	Reason Reason
}

// The codes of m.room_key.withheld.
const (
	withheldBlocked    = "m.blacklisted"
	withheldUnverified = "m.unverified"
	withheldNoOlm      = "m.no_olm"
)

// outboundRecord is the session that a room is encrypted with.
type outboundRecord struct {
	Session    *megolm.Outbound                      `json:"session"`
	Created    int64                                 `json:"created"`
	Limit      int64                                 `json:"limit"`
	Expires    int64                                 `json:"expires"`
	Visibility string                                `json:"visibility"`
	Strict     bool                                  `json:"strict,omitempty"` // VerifiedOnly
	Shared     map[id.UserID]map[id.DeviceID]olm.Key `json:"shared,omitempty"`
	Told       map[id.UserID]map[id.DeviceID]string  `json:"told,omitempty"` // codes of withheld that were sent
}

func (o *outboundRecord) expired(now int64) bool {
	return int64(o.Session.Index()) >= o.Limit || now >= o.Expires
}

// ShareRoomKey makes sure that there is a key to encrypt a room with and that the devices which should have it
// get it, by way of the outbox. The key changes when it is used up or old, when a member or device that had it
// should not any more, and when the history visibility changed. It answers which devices do not get it.
func (m *Machine) ShareRoomKey(room id.RoomID, s Sharing) ([]Withheld, error) {
	var withheld []Withheld
	err := m.update(func(t *txn) error {
		devices, refused, err := t.audience(s)
		if err != nil {
			return err
		}
		o, err := load[outboundRecord](t, prefixOutbound+string(room))
		if err != nil {
			return err
		}
		if o == nil || o.expired(t.millis()) || o.Visibility != s.Visibility || o.Strict != s.VerifiedOnly || o.reaches(devices) {
			if o, err = t.rotate(room, s); err != nil {
				return err
			}
		}
		missing, err := t.share(room, o, devices)
		if err != nil {
			return err
		}
		withheld = append(refused, missing...)
		if err := t.tellWithheld(room, o, withheld); err != nil {
			return err
		}
		return t.save(prefixOutbound+string(room), o)
	})
	if err != nil {
		return nil, fmt.Errorf("sharing the key of %s: %w", room, err)
	}
	return withheld, nil
}

// audience splits the members' devices into those that get the key and those that don't.
func (t *txn) audience(s Sharing) (devices []*deviceRecord, refused []Withheld, err error) {
	for _, user := range slices.Compact(slices.Sorted(slices.Values(s.Members))) {
		u, err := loadUser(t, user)
		if err != nil {
			return nil, nil, err
		}
		for _, device := range slices.Sorted(maps.Keys(u.Devices)) {
			d := u.Devices[device]
			if d.Gone || user == t.m.user && device == t.m.device {
				continue
			}
			trust := t.m.deviceTrust(u, d)
			switch {
			case d.Trust == Blocked:
				refused = append(refused, Withheld{DeviceRef{user, device}, withheldBlocked, trust.Reason})
			case user == s.Verifying:
				devices = append(devices, d)
			case trust.Level == Red, s.VerifiedOnly && trust.Level != Green:
				refused = append(refused, Withheld{DeviceRef{user, device}, withheldUnverified, trust.Reason})
			default:
				devices = append(devices, d)
			}
		}
	}
	return devices, refused, nil
}

// reaches says whether some device has the key that should not read what comes.
func (o *outboundRecord) reaches(devices []*deviceRecord) bool {
	wanted := map[id.UserID]map[id.DeviceID]olm.Key{}
	for _, d := range devices {
		if wanted[d.User] == nil {
			wanted[d.User] = map[id.DeviceID]olm.Key{}
		}
		wanted[d.User][d.ID] = d.Identity
	}
	for user, shared := range o.Shared {
		for device, key := range shared {
			if now, ok := wanted[user][device]; !ok || now != key {
				return true
			}
		}
	}
	return false
}

// rotate starts a new session for a room, which this device can read too.
func (t *txn) rotate(room id.RoomID, s Sharing) (*outboundRecord, error) {
	limit, age := s.MaxMessages, s.MaxAge
	if limit <= 0 {
		limit = defaultMessages
	}
	if age <= 0 {
		age = defaultAge
	}
	o := &outboundRecord{Session: megolm.NewOutbound(), Created: t.millis(), Limit: min(limit, maxMessages),
		Expires: t.now.Add(min(max(age, minAge), maxAge)).UnixMilli(), Visibility: s.Visibility, Strict: s.VerifiedOnly}
	in, err := megolm.NewInbound(o.Session.Key())
	if err != nil {
		return nil, err
	}
	_, err = t.keepRoomKey(room, &inboundRecord{Session: in, claim: claim{User: t.m.user, SenderKey: t.m.identity, Signing: t.m.Fingerprint()}})
	return o, err
}

// share sends the key to the devices that lack it, and answers those that nothing can be sent to.
func (t *txn) share(room id.RoomID, o *outboundRecord, devices []*deviceRecord) (missing []Withheld, err error) {
	if o.Shared == nil {
		o.Shared = map[id.UserID]map[id.DeviceID]olm.Key{}
	}
	content := roomKey{Algorithm: MegolmAlgorithm, Room: room, Session: o.Session.ID(), SessionKey: o.Session.Key()}
	to := recipients{}
	for _, d := range devices {
		if _, has := o.Shared[d.User][d.ID]; has {
			continue
		}
		sealed, err := t.seal(&d.Device, "m.room_key", content)
		if errors.Is(err, errNoSession) {
			missing = append(missing, Withheld{DeviceRef{d.User, d.ID}, withheldNoOlm, "nothing can be sent to it"})
			continue
		}
		if err != nil {
			return nil, err
		}
		to.add(d.User, d.ID, sealed)
		if o.Shared[d.User] == nil {
			o.Shared[d.User] = map[id.DeviceID]olm.Key{}
		}
		o.Shared[d.User][d.ID] = d.Identity
	}
	return missing, t.post("m.room.encrypted", to)
}

// tellWithheld tells devices, once for each session, that they do not get the key.
func (t *txn) tellWithheld(room id.RoomID, o *outboundRecord, withheld []Withheld) error {
	if o.Told == nil {
		o.Told = map[id.UserID]map[id.DeviceID]string{}
	}
	to := recipients{}
	for _, w := range withheld {
		if o.Told[w.User][w.Device] == w.Code {
			continue
		}
		c := withheldContent{Algorithm: MegolmAlgorithm, SenderKey: t.m.identity.String(), Code: w.Code, FromDevice: t.m.device}
		if w.Code != withheldNoOlm {
			c.Room, c.Session = room, o.Session.ID()
		}
		to.add(w.User, w.Device, c)
		if o.Told[w.User] == nil {
			o.Told[w.User] = map[id.DeviceID]string{}
		}
		o.Told[w.User][w.Device] = w.Code
	}
	return t.post("m.room_key.withheld", to)
}

// EncryptRoomEvent makes the content of an m.room.encrypted event. ShareRoomKey comes before, for every event.
func (m *Machine) EncryptRoomEvent(room id.RoomID, kind string, content json.RawMessage) (json.RawMessage, error) {
	var body json.RawMessage
	err := m.update(func(t *txn) error {
		o, err := load[outboundRecord](t, prefixOutbound+string(room))
		if err != nil {
			return err
		}
		if o == nil || o.expired(t.millis()) {
			return ErrNotShared
		}
		plaintext, err := json.Marshal(map[string]any{"type": kind, "content": content, "room_id": room})
		if err != nil {
			return err
		}
		sealed := map[string]any{"algorithm": MegolmAlgorithm, "session_id": o.Session.ID(), "device_id": m.device, "sender_key": m.identity}
		if sealed["ciphertext"], err = o.Session.Encrypt(plaintext); err != nil {
			return err
		}
		var relation struct {
			RelatesTo json.RawMessage `json:"m.relates_to"`
		}
		if json.Unmarshal(content, &relation) == nil && relation.RelatesTo != nil {
			sealed["m.relates_to"] = relation.RelatesTo // servers aggregate by it
		}
		if body, err = json.Marshal(sealed); err != nil {
			return err
		}
		return t.save(prefixOutbound+string(room), o)
	})
	if err != nil {
		return nil, fmt.Errorf("encrypting for %s: %w", room, err)
	}
	return body, nil
}
