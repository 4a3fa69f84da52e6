// Package backup encrypts room keys for a server-side backup, with the algorithm
// m.megolm_backup.v1.curve25519-aes-sha2 (Client-Server API, "Server-side key backups").
//
// Its caller is e2ee, which decides what is backed up and which backup to trust. It knows nothing of
// storage or network.
package backup

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/securecomm/securecomm/e2ee/recoverykey"
	"github.com/securecomm/securecomm/e2ee/wire"
)

// Algorithm is the name of the one algorithm for backups.
const Algorithm = "m.megolm_backup.v1.curve25519-aes-sha2"

// MaxSession is the largest encrypted session in bytes of base64 that is looked at.
const MaxSession = 64 << 10

// ErrKey says that a session was encrypted for another backup.
var ErrKey = errors.New("this is not the key of the backup")

// Data is the property session_data of a session in the backup.
type Data struct {
	Ephemeral  string `json:"ephemeral"`
	Ciphertext string `json:"ciphertext"`
	MAC        string `json:"mac"`
}

// PublicKey encrypts for a backup.
type PublicKey struct{ key *ecdh.PublicKey }

// ParsePublicKey reads the property public_key of a backup's auth_data.
func ParsePublicKey(s string) (PublicKey, error) {
	raw, err := wire.DecodeKey(s)
	if err != nil {
		return PublicKey{}, fmt.Errorf("reading the backup's public key: %w", err)
	}
	key, err := ecdh.X25519().NewPublicKey(raw)
	if err != nil {
		return PublicKey{}, fmt.Errorf("reading the backup's public key: %w", err)
	}
	return PublicKey{key}, nil
}

func (k PublicKey) String() string { return wire.Base64(k.key.Bytes()) }

// Encrypt seals one session.
func (k PublicKey) Encrypt(plaintext []byte) (Data, error) {
	ephemeral, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return Data{}, fmt.Errorf("encrypting for the backup: %w", err)
	}
	secret, err := ephemeral.ECDH(k.key)
	if err != nil {
		return Data{}, fmt.Errorf("encrypting for the backup: %w", err)
	}
	cipher := wire.NewCipher(secret, "")
	return Data{
		Ephemeral:  wire.Base64(ephemeral.PublicKey().Bytes()),
		Ciphertext: wire.Base64(cipher.Encrypt(plaintext)),
		// Over nothing, as the specification has it since the first implementation did so: it proves
		// only that the keys agree. That a session is genuine shows when a message decrypts with it.
		MAC: wire.Base64(cipher.MAC(nil)),
	}, nil
}

// Key is the secret half; who has it can read the backup.
type Key struct{ key *ecdh.PrivateKey }

// NewKey makes a key for a new backup.
func NewKey() (Key, error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("making a key for the backup: %w", err)
	}
	return Key{key}, nil
}

// ParseKey reads a key as users have it, a recovery key.
func ParseKey(text string) (Key, error) {
	raw, err := recoverykey.Decode(text)
	if err != nil {
		return Key{}, err
	}
	return KeyFromBytes(raw[:])
}

// KeyFromBytes reads a key of 32 bytes, as secret storage has it.
func KeyFromBytes(raw []byte) (Key, error) {
	key, err := ecdh.X25519().NewPrivateKey(raw)
	if err != nil {
		return Key{}, fmt.Errorf("reading the backup's key: %w", err)
	}
	return Key{key}, nil
}

// Recovery is the key in the form for users.
func (k Key) Recovery() string { return recoverykey.Encode([recoverykey.Size]byte(k.key.Bytes())) }

// Bytes are the key's 32 bytes, to be stored only where they are encrypted.
func (k Key) Bytes() []byte { return k.key.Bytes() }

// Public is the public half.
func (k Key) Public() PublicKey { return PublicKey{k.key.PublicKey()} }

// Decrypt opens one session.
func (k Key) Decrypt(d Data) ([]byte, error) {
	if len(d.Ciphertext) > MaxSession {
		return nil, fmt.Errorf("decrypting from the backup: %w: larger than %d bytes", wire.ErrMalformed, MaxSession)
	}
	ephemeral, err := ParsePublicKey(d.Ephemeral)
	if err != nil {
		return nil, fmt.Errorf("decrypting from the backup: %w: %w", wire.ErrMalformed, err)
	}
	ciphertext, err := wire.DecodeBase64(d.Ciphertext)
	if err != nil {
		return nil, fmt.Errorf("decrypting from the backup: %w", err)
	}
	mac, err := wire.DecodeBase64(d.MAC)
	if err != nil {
		return nil, fmt.Errorf("decrypting from the backup: %w", err)
	}
	secret, err := k.key.ECDH(ephemeral.key)
	if err != nil {
		return nil, fmt.Errorf("decrypting from the backup: %w: a key of low order", wire.ErrMalformed)
	}
	cipher := wire.NewCipher(secret, "")
	if cipher.CheckMAC(nil, mac) != nil {
		return nil, fmt.Errorf("decrypting from the backup: %w", ErrKey)
	}
	plaintext, err := cipher.Decrypt(ciphertext)
	if err != nil {
		return nil, fmt.Errorf("decrypting from the backup: %w", err)
	}
	return plaintext, nil
}
