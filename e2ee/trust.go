package e2ee

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"

	"github.com/securecomm/securecomm/e2ee/identity"
	"github.com/securecomm/securecomm/homeserver/id"
)

// Level is what to think of a message or a device, in the colours of a traffic light.
type Level int

// Red is for what may be an attack, yellow for what is encrypted and consistent but was never verified,
// green for what was verified. Whatever nobody judged is red: it is the zero value.
const (
	Red Level = iota
	Yellow
	Green
)

func (l Level) String() string { return [...]string{"red", "yellow", "green"}[l] }

// MarshalText implements encoding.TextMarshaler.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. What it does not know is red.
func (l *Level) UnmarshalText(text []byte) error {
	*l = Red
	for _, known := range []Level{Yellow, Green} {
		if known.String() == string(text) {
			*l = known
		}
	}
	return nil
}

// Reason says why a trust has its level.
type Reason string

// The reasons, in the words in which they can be shown.
const (
	ReasonVerified        Reason = "verified"
	ReasonOwnDevice       Reason = "this device"
	ReasonPinned          Reason = "signed by its owner, whose identity was not verified"
	ReasonNoIdentity      Reason = "its owner has no cross-signing identity"
	ReasonNotOwned        Reason = "not signed by its owner"
	ReasonIdentityChanged Reason = "its owner's identity has changed"
	ReasonBlocked         Reason = "blocked by you"
	ReasonGone            Reason = "the device does not exist any more"
	ReasonUnknownDevice   Reason = "sent by an unknown device"
	ReasonOtherSender     Reason = "encrypted by somebody else than its sender"
	ReasonIndirect        Reason = "the key did not come from the sender directly"
)

// Trust is a level with its reason.
type Trust struct {
	Level  Level
	Reason Reason
}

func (t Trust) String() string { return t.Level.String() + ": " + string(t.Reason) }

// LocalTrust is what the user decided about a single device.
type LocalTrust string

// A device is not decided about, verified by hand, or blocked.
const (
	Undecided LocalTrust = ""
	Verified  LocalTrust = "verified"
	Blocked   LocalTrust = "blocked"
)

var (
	// ErrFingerprint says that a fingerprint that a person compared is not the one that the server gave.
	ErrFingerprint = errors.New("the fingerprint does not match")
	// ErrUnknown says that nothing is known of a user or device.
	ErrUnknown = errors.New("unknown user or device")
	// ErrCollision says that a user has a device whose ID is one of the user's cross-signing keys.
	ErrCollision = errors.New("a device has the name of a cross-signing key")
)

// deviceTrust is what to think of a device of a user. What a device signed that is gone may be of anybody who has
// found it since: it is not green any more.
func (m *Machine) deviceTrust(u *userRecord, d *deviceRecord) Trust {
	trust := m.liveTrust(u, d)
	if d.Gone && trust.Level != Red && trust.Reason != ReasonOwnDevice {
		return Trust{Yellow, ReasonGone}
	}
	return trust
}

func (m *Machine) liveTrust(u *userRecord, d *deviceRecord) Trust {
	switch {
	case u.ID == m.user && d.ID == m.device && d.Signing.Equal(m.signing):
		return Trust{Green, ReasonOwnDevice}
	case d.Trust == Blocked:
		return Trust{Red, ReasonBlocked}
	case u.changed():
		return Trust{Red, ReasonIdentityChanged}
	case d.Trust == Verified:
		return Trust{Green, ReasonVerified}
	case u.Identity == nil:
		return Trust{Yellow, ReasonNoIdentity}
	case !u.Identity.Owns(&d.Device):
		return Trust{Red, ReasonNotOwned}
	case u.Verified:
		return Trust{Green, ReasonVerified}
	}
	return Trust{Yellow, ReasonPinned}
}

// refreshVerified looks which users' pinned identities the own user-signing key vouches for: perhaps
// another own device verified them.
func (t *txn) refreshVerified() error {
	own, err := loadUser(t, t.m.user)
	if err != nil {
		return err
	}
	if own.Identity == nil || own.changed() || !own.Verified {
		return nil
	}
	for _, key := range t.Keys(prefixUser) {
		u, err := load[userRecord](t, key)
		if err != nil {
			return err
		}
		if u.ID == t.m.user || u.Verified || u.Identity == nil || !own.Identity.Vouches(u.Identity) {
			continue
		}
		// The signature is on this very master key, so it also settles a change.
		u.Pinned, u.Verified = u.Identity.Master.Key, true
		if err := t.saveUser(u); err != nil {
			return err
		}
	}
	return nil
}

// Identity describes a user's cross-signing identity.
type Identity struct {
	Fingerprint string // the master key; empty if there is no identity
	Verified    bool
	Changed     bool // since it was first seen or accepted
}

// Identity is what is known of a user's cross-signing identity.
func (m *Machine) Identity(user id.UserID) (Identity, error) {
	u, err := loadUser(m.vault, user)
	if err != nil || u.Identity == nil {
		return Identity{}, err
	}
	return Identity{Fingerprint: u.Identity.Fingerprint(), Verified: u.Verified && !u.changed(), Changed: u.changed()}, nil
}

// AcceptIdentity pins the identity that a user has now, after it changed. It is not verified by that.
func (m *Machine) AcceptIdentity(user id.UserID) error {
	err := m.update(func(t *txn) error {
		u, err := loadUser(t, user)
		if err != nil {
			return err
		}
		if u.Identity == nil {
			return ErrUnknown
		}
		if u.changed() {
			u.Pinned, u.Verified = u.Identity.Master.Key, false
		}
		return t.saveUser(u)
	})
	if err != nil {
		return fmt.Errorf("accepting the identity of %s: %w", user, err)
	}
	return nil
}

// VerificationKeys are the keys, by their IDs, that one side of a verification (package verify) proves or expects: that
// of a device, and the master key of its user if there is one. Of the own identity it is only there if it is
// verified: to prove a key that a server may have made up would vouch for it.
func (m *Machine) VerificationKeys(user id.UserID, device id.DeviceID) (map[id.KeyID]string, error) {
	u, err := loadUser(m.vault, user)
	if err != nil {
		return nil, fmt.Errorf("finding the keys of %s: %w", user, err)
	}
	keys := map[id.KeyID]string{}
	if user == m.user && device == m.device {
		keys["ed25519:"+id.KeyID(device)] = m.Fingerprint()
		if u.Identity != nil && u.Verified && !u.changed() {
			keys[identity.KeyID(u.Identity.Master.Key)] = u.Identity.Fingerprint()
		}
		return keys, nil
	}
	d := u.Devices[device]
	if d == nil || d.Gone {
		return nil, fmt.Errorf("finding the keys of %s: %w", user, ErrUnknown)
	}
	if u.Identity != nil {
		// A device that has the name of the key would make it ambiguous which of the two was proven.
		if _, ok := u.Devices[id.DeviceID(identity.KeyID(u.Identity.Master.Key).Name())]; ok {
			return nil, fmt.Errorf("finding the keys of %s: %w", user, ErrCollision)
		}
		keys[identity.KeyID(u.Identity.Master.Key)] = u.Identity.Fingerprint()
	}
	keys["ed25519:"+id.KeyID(device)] = d.Fingerprint()
	return keys, nil
}

// VerifyUser marks a user's identity as verified, after a person compared the fingerprint of the master
// key. If the private user-signing key is here, the result is a body for POST /keys/signatures/upload,
// which tells the other own devices; else it is nil, and only this device knows.
func (m *Machine) VerifyUser(user id.UserID, fingerprint string) (*SignaturesUpload, error) {
	var body *SignaturesUpload
	err := m.update(func(t *txn) error {
		u, err := loadUser(t, user)
		if err != nil {
			return err
		}
		if u.Identity == nil {
			return ErrUnknown
		}
		if !sameFingerprint(u.Identity.Fingerprint(), fingerprint) {
			return ErrFingerprint
		}
		for _, key := range []*identity.PublicKey{&u.Identity.Master, u.Identity.SelfSigning, u.Identity.UserSigning} {
			if key == nil {
				continue
			}
			if _, ok := u.Devices[id.DeviceID(identity.KeyID(key.Key).Name())]; ok {
				return ErrCollision
			}
		}
		u.Pinned, u.Verified = u.Identity.Master.Key, true
		if err := t.saveUser(u); err != nil {
			return err
		}
		body, err = t.signVerified(u)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("verifying %s: %w", user, err)
	}
	return body, nil
}

// SetDeviceTrust is the user's decision about one device. Verified needs the device's fingerprint as a
// person compared it; for the others it is not looked at.
func (m *Machine) SetDeviceTrust(user id.UserID, device id.DeviceID, trust LocalTrust, fingerprint string) error {
	err := m.update(func(t *txn) error {
		u, err := loadUser(t, user)
		if err != nil {
			return err
		}
		d := u.Devices[device]
		if d == nil || d.Gone {
			return ErrUnknown
		}
		if trust == Verified && !sameFingerprint(d.Fingerprint(), fingerprint) {
			return ErrFingerprint
		}
		d.Trust = trust
		return t.saveUser(u)
	})
	if err != nil {
		return fmt.Errorf("deciding about device %s of %s: %w", device, user, err)
	}
	return nil
}

// sameFingerprint ignores white space, in which people group fingerprints.
func sameFingerprint(a, b string) bool {
	b = strings.Join(strings.Fields(b), "")
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}
