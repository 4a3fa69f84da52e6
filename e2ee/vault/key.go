package vault

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

const keySize = chacha20poly1305.KeySize

// ErrOpenKeyFile says that others than its owner may read a key file.
var ErrOpenKeyFile = errors.New("the key file is not private")

// Key unlocks a vault: a passphrase or the content of a key file.
type Key struct {
	passphrase []byte
	raw        []byte
}

// Passphrase is a key that the user remembers. It must not be empty.
func Passphrase(p string) (Key, error) {
	if p == "" {
		return Key{}, errors.New("the passphrase is empty")
	}
	return Key{passphrase: []byte(p)}, nil
}

// KeyFile reads a key file, which only its owner may be allowed to read, or makes one of mode 0600 if
// there is none.
func KeyFile(path string) (Key, error) {
	key, err := readKeyFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	raw := make([]byte, keySize)
	rand.Read(raw)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return readKeyFile(path) // another process was faster
	}
	if err != nil {
		return Key{}, fmt.Errorf("making a key file: %w", err)
	}
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(raw) + "\n")
	// The folder too: a vault that outlives a crash which its key does not is lost.
	if err = errors.Join(err, f.Sync(), f.Close(), syncDir(filepath.Dir(path))); err != nil {
		return Key{}, errors.Join(fmt.Errorf("making a key file: %w", err), os.Remove(path))
	}
	return Key{raw: raw}, nil
}

func readKeyFile(path string) (Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Key{}, fmt.Errorf("reading a key file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 && permissionsCount {
		return Key{}, fmt.Errorf("%w: %s has mode %04o; set it to 0600", ErrOpenKeyFile, path, info.Mode().Perm())
	}
	if info.Size() > 4096 {
		return Key{}, fmt.Errorf("reading a key file: %s is too long to be one", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Key{}, fmt.Errorf("reading a key file: %w", err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(raw) != keySize {
		return Key{}, fmt.Errorf("reading a key file: %s is not one", path)
	}
	return Key{raw: raw}, nil
}

// derivation says how the key of the header comes from what the user has.
type derivation struct {
	Kind    string `json:"kind"` // "argon2id" or "file"
	Salt    []byte `json:"salt,omitempty"`
	Time    uint32 `json:"time,omitempty"`   // passes
	Memory  uint32 `json:"memory,omitempty"` // KiB
	Threads uint8  `json:"threads,omitempty"`
}

// Argon2id as RFC 9106 recommends for machines with little memory to spare; what is read from a file
// may be more, but not so much that opening it would be an attack.
const (
	argonTime, argonMemory, argonThreads = 3, 64 << 10, 4
	maxArgonTime, maxArgonMemory         = 64, 1 << 20
)

func newDerivation(k Key) derivation {
	if k.raw != nil {
		return derivation{Kind: "file"}
	}
	salt := make([]byte, 16)
	rand.Read(salt)
	return derivation{Kind: "argon2id", Salt: salt, Time: argonTime, Memory: argonMemory, Threads: argonThreads}
}

func (d derivation) key(k Key) ([]byte, error) {
	switch {
	case d.Kind == "file" && k.raw != nil:
		return k.raw, nil
	case d.Kind == "file":
		return nil, fmt.Errorf("%w: this vault opens with a key file, not a passphrase", ErrWrongKey)
	case d.Kind == "argon2id" && k.passphrase == nil:
		return nil, fmt.Errorf("%w: this vault opens with a passphrase, not a key file", ErrWrongKey)
	case d.Kind != "argon2id":
		return nil, fmt.Errorf("%w: an unknown kind of key", ErrCorrupt)
	case d.Time == 0 || d.Time > maxArgonTime || d.Memory == 0 || d.Memory > maxArgonMemory || d.Threads == 0 || len(d.Salt) < 8:
		return nil, fmt.Errorf("%w: Argon2id parameters out of range", ErrCorrupt)
	}
	return argon2.IDKey(k.passphrase, d.Salt, d.Time, d.Memory, d.Threads, keySize), nil
}
