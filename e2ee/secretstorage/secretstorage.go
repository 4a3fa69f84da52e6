// Package secretstorage keeps secrets, such as the private cross-signing keys, in a user's account data so
// that the server can't read them (Client-Server API, "Secrets", m.secret_storage.v1.aes-hmac-sha2).
//
// Its caller is the terminal client, which moves the objects to and from the server. It knows nothing of
// what a secret is for.
package secretstorage

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"errors"
	"fmt"

	"github.com/securecomm/securecomm/e2ee/recoverykey"
	"github.com/securecomm/securecomm/e2ee/wire"
)

// The account data types and secret names of the specification.
const (
	Algorithm     = "m.secret_storage.v1.aes-hmac-sha2"
	DefaultKey    = "m.secret_storage.default_key"
	KeyPrefix     = "m.secret_storage.key."
	Master        = "m.cross_signing.master"
	SelfSigning   = "m.cross_signing.self_signing"
	UserSigning   = "m.cross_signing.user_signing"
	Backup        = "m.megolm_backup.v1"
	maxIterations = 10_000_000
	maxSecret     = 64 << 10
)

var (
	// ErrKey says that a key does not fit its description or a secret.
	ErrKey = errors.New("this is not the key of the secret storage")
	// ErrMalformed says that a description or a secret can't be read.
	ErrMalformed = errors.New("malformed secret")
)

// Key opens a secret storage.
type Key [recoverykey.Size]byte

// Description is the content of a key's account data.
type Description struct {
	Name       string      `json:"name,omitempty"`
	Algorithm  string      `json:"algorithm"`
	Passphrase *Passphrase `json:"passphrase,omitempty"`
	IV         string      `json:"iv,omitempty"`
	MAC        string      `json:"mac,omitempty"`
}

// Passphrase says how a key comes from a passphrase.
type Passphrase struct {
	Algorithm  string `json:"algorithm"`
	Salt       string `json:"salt"`
	Iterations int    `json:"iterations"`
	Bits       int    `json:"bits,omitempty"`
}

// Secret is one secret under one key: a value of the property encrypted of the secret's account data.
type Secret struct {
	IV         string `json:"iv"`
	Ciphertext string `json:"ciphertext"`
	MAC        string `json:"mac"`
}

// NewKey makes a key and the description to store for it.
func NewKey() (Key, Description, error) {
	var k Key
	rand.Read(k[:])
	check, err := k.Encrypt("", make([]byte, wire.KeySize))
	if err != nil {
		return Key{}, Description{}, err
	}
	return k, Description{Algorithm: Algorithm, IV: check.IV, MAC: check.MAC}, nil
}

// Recovery is the key in the form for users.
func (k Key) Recovery() string { return recoverykey.Encode(k) }

// Open makes the key from what the user entered, a recovery key or a passphrase, and checks that it fits
// the description.
func (d Description) Open(entered string) (Key, error) {
	if d.Algorithm != Algorithm {
		return Key{}, fmt.Errorf("opening secret storage: %w: an unknown algorithm", ErrMalformed)
	}
	key, err := recoverykey.Decode(entered)
	if err != nil && d.Passphrase != nil {
		key, err = d.Passphrase.key(entered)
	}
	if err != nil {
		return Key{}, fmt.Errorf("opening secret storage: %w", err)
	}
	if err := d.check(key); err != nil {
		return Key{}, fmt.Errorf("opening secret storage: %w", err)
	}
	return key, nil
}

func (p Passphrase) key(passphrase string) (key Key, err error) {
	if p.Algorithm != "m.pbkdf2" || p.Iterations < 1 || p.Iterations > maxIterations || p.Bits != 0 && p.Bits != 8*len(key) {
		return key, fmt.Errorf("%w: how to use the passphrase", ErrMalformed)
	}
	raw, err := pbkdf2.Key(sha512.New, passphrase, []byte(p.Salt), p.Iterations, len(key))
	if err != nil {
		return key, err
	}
	return Key(raw), nil
}

// check compares with the description, which may lack what is needed for it.
func (d Description) check(k Key) error {
	if d.IV == "" || d.MAC == "" {
		return nil
	}
	iv, err := wire.DecodeBase64(d.IV)
	if err != nil || len(iv) != aes.BlockSize {
		return fmt.Errorf("%w: the initialization vector", ErrMalformed)
	}
	mac, err := wire.DecodeBase64(d.MAC)
	if err != nil {
		return fmt.Errorf("%w: the authentication code", ErrMalformed)
	}
	stream, macKey, err := k.open("", iv)
	if err != nil {
		return err
	}
	zeros := make([]byte, wire.KeySize)
	stream.XORKeyStream(zeros, zeros)
	if !hmac.Equal(wire.HMAC(macKey, zeros), mac) {
		return ErrKey
	}
	return nil
}

// Encrypt seals a secret under its name. Secrets that are bytes are base64 before.
func (k Key) Encrypt(name string, secret []byte) (Secret, error) {
	iv := make([]byte, aes.BlockSize)
	rand.Read(iv)
	iv[8] &= 0x7f // bit 63, where implementations of the counter differ
	stream, macKey, err := k.open(name, iv)
	if err != nil {
		return Secret{}, fmt.Errorf("encrypting a secret: %w", err)
	}
	ciphertext := make([]byte, len(secret))
	stream.XORKeyStream(ciphertext, secret)
	return Secret{wire.Base64(iv), wire.Base64(ciphertext), wire.Base64(wire.HMAC(macKey, ciphertext))}, nil
}

// Decrypt opens a secret.
func (k Key) Decrypt(name string, s Secret) ([]byte, error) {
	if len(s.Ciphertext) > maxSecret {
		return nil, fmt.Errorf("decrypting a secret: %w: larger than %d bytes", ErrMalformed, maxSecret)
	}
	iv, err := wire.DecodeBase64(s.IV)
	if err != nil || len(iv) != aes.BlockSize {
		return nil, fmt.Errorf("decrypting a secret: %w: the initialization vector", ErrMalformed)
	}
	ciphertext, err := wire.DecodeBase64(s.Ciphertext)
	if err != nil {
		return nil, fmt.Errorf("decrypting a secret: %w: the ciphertext", ErrMalformed)
	}
	mac, err := wire.DecodeBase64(s.MAC)
	if err != nil {
		return nil, fmt.Errorf("decrypting a secret: %w: the authentication code", ErrMalformed)
	}
	stream, macKey, err := k.open(name, iv)
	if err != nil {
		return nil, fmt.Errorf("decrypting a secret: %w", err)
	}
	if !hmac.Equal(wire.HMAC(macKey, ciphertext), mac) {
		return nil, fmt.Errorf("decrypting a secret: %w", ErrKey)
	}
	stream.XORKeyStream(ciphertext, ciphertext)
	return ciphertext, nil
}

func (k Key) open(name string, iv []byte) (cipher.Stream, []byte, error) {
	keys := wire.Derive(k[:], nil, name, 2*wire.KeySize)
	block, err := aes.NewCipher(keys[:wire.KeySize])
	if err != nil {
		return nil, nil, err
	}
	return cipher.NewCTR(block, iv), keys[wire.KeySize:], nil
}
