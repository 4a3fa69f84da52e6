package sign

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/securecomm/securecomm/homeserver/id"
)

// PublicKey is what signatures are checked with.
type PublicKey = ed25519.PublicKey

var (
	// ErrNotSigned says that there is no signature by that server and key.
	ErrNotSigned = errors.New("not signed")
	// ErrBadSignature says that a signature does not fit what it is said to sign.
	ErrBadSignature = errors.New("bad signature")
)

// Key is a signing key of a server, or of a user's device in tests.
type Key struct {
	ID      id.KeyID
	Private ed25519.PrivateKey
}

// NewKey makes a key of a random name.
func NewKey() (Key, error) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return Key{}, fmt.Errorf("making a signing key: %w", err)
	}
	return Key{ID: id.KeyID("ed25519:a_" + rand.Text()[:6]), Private: private}, nil
}

// Public is the key's public half.
func (k Key) Public() PublicKey { return k.Private.Public().(ed25519.PublicKey) }

// Sign is the signature of a message, in unpadded base64.
func (k Key) Sign(message []byte) string {
	return base64.RawStdEncoding.EncodeToString(ed25519.Sign(k.Private, message))
}

// String names the key and hides the secret, also from logs.
func (k Key) String() string { return string(k.ID) }

// GoString is String, for %#v.
func (k Key) GoString() string { return string(k.ID) }

// MarshalText is String as well, for whatever writes JSON.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.ID), nil }

// Verify checks a signature in base64 of a message.
func Verify(pub PublicKey, message []byte, signature string) error {
	sig, err := DecodeBase64(signature)
	if err != nil || len(pub) != ed25519.PublicKeySize || !ed25519.Verify(pub, message, sig) {
		return ErrBadSignature
	}
	return nil
}

// Base64 is the unpadded standard base64 of Matrix.
func Base64(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

// DecodeBase64 reads standard base64 with or without padding.
func DecodeBase64(s string) ([]byte, error) {
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		return nil, fmt.Errorf("decoding base64: %w", err)
	}
	return b, nil
}

func checkKeyID(keyID id.KeyID) error {
	name := keyID.Name()
	if keyID.Algorithm() != "ed25519" || name == "" || len(keyID) > id.MaxLength {
		return fmt.Errorf("%w: the ID of a signing key is \"ed25519:\" and a name", id.ErrInvalid)
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return fmt.Errorf("%w: names of signing keys may have only letters, digits and _", id.ErrInvalid)
		}
	}
	return nil
}
