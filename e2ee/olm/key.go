package olm

import (
	"crypto/ecdh"
	"crypto/rand"
	"fmt"

	"github.com/securecomm/securecomm/e2ee/wire"
)

// Key is a public Curve25519 key, or a chain value: 32 bytes that print as unpadded base64.
type Key [wire.KeySize]byte

// ParseKey reads a key from base64.
func ParseKey(s string) (Key, error) {
	b, err := wire.DecodeKey(s)
	if err != nil {
		return Key{}, fmt.Errorf("reading a Curve25519 key: %w", err)
	}
	return Key(b), nil
}

func (k Key) String() string { return wire.Base64(k[:]) }

// MarshalText makes keys base64 in JSON.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText undoes MarshalText.
func (k *Key) UnmarshalText(text []byte) (err error) {
	*k, err = ParseKey(string(text))
	return err
}

// keyPair is a private Curve25519 key together with its public one.
type keyPair struct{ private *ecdh.PrivateKey }

func newKeyPair() keyPair {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic("no random numbers: " + err.Error()) // crypto/rand never fails on supported systems
	}
	return keyPair{private}
}

func (k keyPair) public() Key { return Key(k.private.PublicKey().Bytes()) }

// shared is the Diffie-Hellman secret; a key of low order, which would make it zero, is refused.
func (k keyPair) shared(other Key) ([]byte, error) {
	public, err := ecdh.X25519().NewPublicKey(other[:])
	if err != nil {
		return nil, fmt.Errorf("%w: not a Curve25519 key", wire.ErrMalformed)
	}
	secret, err := k.private.ECDH(public)
	if err != nil {
		return nil, fmt.Errorf("%w: a Curve25519 key of low order", wire.ErrMalformed)
	}
	return secret, nil
}

func (k keyPair) MarshalText() ([]byte, error) { return Key(k.private.Bytes()).MarshalText() }

func (k *keyPair) UnmarshalText(text []byte) error {
	var b Key
	if err := b.UnmarshalText(text); err != nil {
		return err
	}
	private, err := ecdh.X25519().NewPrivateKey(b[:])
	if err != nil {
		return fmt.Errorf("reading a private key: %w", err)
	}
	k.private = private
	return nil
}
