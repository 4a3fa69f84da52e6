package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/e2ee/wire"
	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
)

// The usages of cross-signing keys.
const (
	Master      = "master"
	SelfSigning = "self_signing"
	UserSigning = "user_signing"
)

// PublicKey is one public cross-signing key.
type PublicKey struct {
	Key  ed25519.PublicKey `json:"key"`
	JSON json.RawMessage   `json:"json"` // canonical, with signatures
}

// User is a user's cross-signing identity: a master key, and what bears its signature.
type User struct {
	ID          id.UserID  `json:"id"`
	Master      PublicKey  `json:"master"`
	SelfSigning *PublicKey `json:"self_signing,omitempty"`
	UserSigning *PublicKey `json:"user_signing,omitempty"` // only of the own user
}

type keyObject struct {
	User  id.UserID           `json:"user_id"`
	Usage []string            `json:"usage"`
	Keys  map[id.KeyID]string `json:"keys"`
}

// ParseUser reads a user's cross-signing keys from an answer to /keys/query; those which are not there are
// nil. A key that its master key did not sign makes the whole identity invalid.
func ParseUser(user id.UserID, master, selfSigning, userSigning []byte) (*User, error) {
	key, err := parseKey(master, user, Master)
	if err != nil {
		return nil, err
	}
	u := &User{ID: user, Master: *key}
	if u.SelfSigning, err = u.parseSigned(selfSigning, SelfSigning); err != nil {
		return nil, err
	}
	if u.UserSigning, err = u.parseSigned(userSigning, UserSigning); err != nil {
		return nil, err
	}
	return u, nil
}

func (u *User) parseSigned(raw []byte, usage string) (*PublicKey, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	key, err := parseKey(raw, u.ID, usage)
	if err != nil {
		return nil, err
	}
	if err := VerifyJSON(key.JSON, u.ID, KeyID(u.Master.Key), u.Master.Key); err != nil {
		return nil, fmt.Errorf("reading the %s key: %w", usage, err)
	}
	return key, nil
}

func parseKey(raw []byte, user id.UserID, usage string) (*PublicKey, error) {
	if len(raw) > MaxObject {
		return nil, fmt.Errorf("reading the %s key: %w: larger than %d bytes", usage, ErrMalformed, MaxObject)
	}
	var obj keyObject
	if err := json.Unmarshal(raw, &obj); err != nil {
		return nil, fmt.Errorf("reading the %s key: %w: %w", usage, ErrMalformed, err)
	}
	if obj.User != user || !slices.Contains(obj.Usage, usage) || len(obj.Keys) != 1 {
		return nil, fmt.Errorf("reading the %s key: %w: of another user, for another use, or not one key", usage, ErrMalformed)
	}
	for keyID, text := range obj.Keys {
		public, err := wire.DecodeKey(text)
		if err != nil {
			return nil, fmt.Errorf("reading the %s key: %w: %w", usage, ErrMalformed, err)
		}
		if keyID != KeyID(public) {
			return nil, fmt.Errorf("reading the %s key: %w: its ID is not the key", usage, ErrMalformed)
		}
		canonical, err := withoutUnsigned(raw)
		if err != nil {
			return nil, fmt.Errorf("reading the %s key: %w", usage, err)
		}
		return &PublicKey{Key: public, JSON: canonical}, nil
	}
	return nil, ErrMalformed // not reached: there is one key
}

// Owns says whether the user's self-signing key signed a device.
func (u *User) Owns(d *Device) bool {
	return u.SelfSigning != nil && d.User == u.ID && d.SignedBy(u.ID, u.SelfSigning.Key)
}

// Vouches says whether this user's user-signing key signed another user's master key.
func (u *User) Vouches(other *User) bool {
	return u.UserSigning != nil &&
		VerifyJSON(other.Master.JSON, u.ID, KeyID(u.UserSigning.Key), u.UserSigning.Key) == nil
}

// Fingerprint is the master key as people compare it.
func (u *User) Fingerprint() string { return wire.Base64(u.Master.Key) }

// Private is the private half of a cross-signing identity: three seeds.
type Private struct {
	Master      []byte `json:"master"`
	SelfSigning []byte `json:"self_signing"`
	UserSigning []byte `json:"user_signing"`
}

// NewPrivate makes an identity.
func NewPrivate() *Private {
	p := &Private{}
	for _, seed := range []*[]byte{&p.Master, &p.SelfSigning, &p.UserSigning} {
		*seed = make([]byte, ed25519.SeedSize)
		rand.Read(*seed)
	}
	return p
}

// Signer signs with the key for a usage.
func (p *Private) Signer(user id.UserID, usage string) (Signer, error) {
	seed := map[string][]byte{Master: p.Master, SelfSigning: p.SelfSigning, UserSigning: p.UserSigning}[usage]
	if len(seed) != ed25519.SeedSize {
		return Signer{}, fmt.Errorf("there is no private %s key here", usage)
	}
	return SignerOf(user, ed25519.NewKeyFromSeed(seed)), nil
}

// Public are the signed public keys. The device, if given, signs the master key too, so that those who
// verified the device can trust the identity.
func (p *Private) Public(user id.UserID, device *Signer) (master, selfSigning, userSigning json.RawMessage, err error) {
	by, err := p.Signer(user, Master)
	if err != nil {
		return nil, nil, nil, err
	}
	if master, err = describe(user, Master, p.Master); err != nil {
		return nil, nil, nil, err
	}
	if device != nil {
		if master, err = SignJSON(master, *device); err != nil {
			return nil, nil, nil, err
		}
	}
	if selfSigning, err = describe(user, SelfSigning, p.SelfSigning, by); err != nil {
		return nil, nil, nil, err
	}
	userSigning, err = describe(user, UserSigning, p.UserSigning, by)
	return master, selfSigning, userSigning, err
}

// Matches says whether the private keys are those of a public identity.
func (p *Private) Matches(u *User) bool {
	is := func(seed []byte, public *PublicKey) bool {
		return public != nil && len(seed) == ed25519.SeedSize && ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey).Equal(public.Key)
	}
	return is(p.Master, &u.Master) && is(p.SelfSigning, u.SelfSigning) && is(p.UserSigning, u.UserSigning)
}

func describe(user id.UserID, usage string, seed []byte, by ...Signer) (json.RawMessage, error) {
	public := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	obj, err := canonicaljson.Encode(keyObject{
		User: user, Usage: []string{usage}, Keys: map[id.KeyID]string{KeyID(public): wire.Base64(public)},
	})
	if err != nil {
		return nil, fmt.Errorf("describing the %s key: %w", usage, err)
	}
	for _, signer := range by {
		if obj, err = SignJSON(obj, signer); err != nil {
			return nil, err
		}
	}
	return obj, nil
}
