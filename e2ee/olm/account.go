package olm

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// MaxOneTimeKeys is how many private one-time keys an account keeps. The oldest go first: a server may
// hand out keys that are never used, and they must not pile up.
const MaxOneTimeKeys = 500

// ErrUnknownKey says that a pre-key message names a one-time key that this account does not have (any more).
var ErrUnknownKey = errors.New("the message uses a one-time key that is not ours or was used before")

// Account is the identity of one device: its signing key, its Curve25519 key, and what it published for
// others to start sessions with.
type Account struct{ s accountState }

type accountState struct {
	Signing  []byte       `json:"signing"` // the seed of the Ed25519 key
	Identity keyPair      `json:"identity"`
	OneTime  []oneTimeKey `json:"one_time"` // oldest first
	Fallback *oneTimeKey  `json:"fallback,omitempty"`
	Previous *oneTimeKey  `json:"previous,omitempty"` // the fallback key before
}

type oneTimeKey struct {
	ID        string  `json:"id"`
	Pair      keyPair `json:"pair"`
	Published bool    `json:"published,omitempty"`
}

// PublicKey is a one-time or fallback key as others may see it.
type PublicKey struct {
	ID  string
	Key Key
}

// NewAccount makes an account with fresh keys and nothing to publish yet.
func NewAccount() *Account {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	return &Account{accountState{Signing: seed, Identity: newKeyPair()}}
}

// Identity is the device's Curve25519 key.
func (a *Account) Identity() Key { return a.s.Identity.public() }

// Signing is the device's Ed25519 key, its fingerprint.
func (a *Account) Signing() ed25519.PublicKey {
	return a.private().Public().(ed25519.PublicKey)
}

// Sign signs with the device's Ed25519 key.
func (a *Account) Sign(message []byte) []byte { return ed25519.Sign(a.private(), message) }

func (a *Account) private() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(a.s.Signing) }

// GenerateOneTimeKeys adds n keys that are not published yet.
func (a *Account) GenerateOneTimeKeys(n int) {
	for range n {
		a.s.OneTime = append(a.s.OneTime, a.newKey())
	}
	if over := len(a.s.OneTime) - MaxOneTimeKeys; over > 0 {
		a.s.OneTime = slices.Delete(a.s.OneTime, 0, over)
	}
}

// GenerateFallback replaces the fallback key. The one before stays usable until ForgetFallback; the one
// before that is gone.
func (a *Account) GenerateFallback() {
	key := a.newKey()
	a.s.Previous, a.s.Fallback = a.s.Fallback, &key
}

// ForgetFallback drops the fallback key before the current one and says whether there was one.
func (a *Account) ForgetFallback() bool {
	had := a.s.Previous != nil
	a.s.Previous = nil
	return had
}

// Unpublished are the one-time keys, and the fallback key if any, that MarkPublished has not been called for.
func (a *Account) Unpublished() (oneTime []PublicKey, fallback *PublicKey) {
	for _, k := range a.s.OneTime {
		if !k.Published {
			oneTime = append(oneTime, PublicKey{k.ID, k.Pair.public()})
		}
	}
	if k := a.s.Fallback; k != nil && !k.Published {
		fallback = &PublicKey{k.ID, k.Pair.public()}
	}
	return oneTime, fallback
}

// HasFallback says whether a fallback key was ever made.
func (a *Account) HasFallback() bool { return a.s.Fallback != nil }

// MarkPublished notes that the server has the keys with these IDs.
func (a *Account) MarkPublished(ids []string) {
	for i := range a.s.OneTime {
		if slices.Contains(ids, a.s.OneTime[i].ID) {
			a.s.OneTime[i].Published = true
		}
	}
	if k := a.s.Fallback; k != nil && slices.Contains(ids, k.ID) {
		k.Published = true
	}
}

func (a *Account) newKey() oneTimeKey {
	// Not counted: an account that was put back from an older copy would give IDs that the server has another key for.
	return oneTimeKey{ID: rand.Text(), Pair: newKeyPair()}
}

// find is the private key that belongs to a published one.
func (a *Account) find(public Key) (keyPair, bool) {
	for _, k := range a.s.OneTime {
		if k.Pair.public() == public {
			return k.Pair, true
		}
	}
	for _, k := range []*oneTimeKey{a.s.Fallback, a.s.Previous} {
		if k != nil && k.Pair.public() == public {
			return k.Pair, true
		}
	}
	return keyPair{}, false
}

// remove drops a one-time key once it was used; fallback keys stay.
func (a *Account) remove(public Key) {
	a.s.OneTime = slices.DeleteFunc(a.s.OneTime, func(k oneTimeKey) bool { return k.Pair.public() == public })
}

// MarshalJSON is the account with its private keys.
func (a *Account) MarshalJSON() ([]byte, error) { return json.Marshal(a.s) }

// UnmarshalJSON undoes MarshalJSON.
func (a *Account) UnmarshalJSON(b []byte) error {
	var s accountState
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("reading an account: %w", err)
	}
	whole := len(s.Signing) == ed25519.SeedSize && s.Identity.private != nil
	for _, k := range s.OneTime {
		whole = whole && k.Pair.private != nil
	}
	for _, k := range []*oneTimeKey{s.Fallback, s.Previous} {
		whole = whole && (k == nil || k.Pair.private != nil)
	}
	if !whole {
		return errors.New("reading an account: a key is missing")
	}
	a.s = s
	return nil
}
