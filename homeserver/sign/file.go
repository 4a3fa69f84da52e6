package sign

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	pemType     = "PRIVATE KEY"
	pemKeyID    = "Key-ID"
	maxFileSize = 64 << 10
)

// LoadOrCreate reads the signing key in a file, or makes one and writes it there if there is no file.
func LoadOrCreate(path string) (Key, error) {
	key, err := Load(path)
	if !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	if key, err = NewKey(); err != nil {
		return Key{}, err
	}
	if err := write(path, key); errors.Is(err, os.ErrExist) {
		return Load(path) // another process was faster
	} else if err != nil {
		return Key{}, fmt.Errorf("writing the signing key: %w", err)
	}
	return key, nil
}

// Load reads the signing key in a file: PKCS #8 in PEM with the key's ID as a header, Synapse's "ed25519 name seed", or
// Dendrite's "MATRIX PRIVATE KEY" in PEM. Error: os.ErrNotExist.
func Load(path string) (Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return Key{}, fmt.Errorf("reading the signing key: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return Key{}, fmt.Errorf("reading the signing key: %w", err)
	}
	if len(raw) > maxFileSize {
		return Key{}, fmt.Errorf("the signing key %s is larger than %d bytes", path, maxFileSize)
	}
	key, err := parse(raw)
	if err != nil {
		return Key{}, fmt.Errorf("the signing key %s: %w", path, err)
	}
	return key, nil
}

// write puts a whole file in place or none: a crash must not leave half a key, and an existing key is never
// overwritten.
func write(path string, key Key) error {
	der, err := x509.MarshalPKCS8PrivateKey(key.Private)
	if err != nil {
		return err
	}
	block := &pem.Block{Type: pemType, Headers: map[string]string{pemKeyID: string(key.ID)}, Bytes: der}
	f, err := os.CreateTemp(filepath.Dir(path), ".signing-key-*") // mode 0600, O_EXCL
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(pem.EncodeToMemory(block))
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// syncFolder makes a new name in a folder survive a power failure.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func parse(raw []byte) (Key, error) {
	block, _ := pem.Decode(raw)
	if block == nil {
		return parseSynapse(string(raw))
	}
	keyID := id.KeyID(block.Headers[pemKeyID])
	if err := checkKeyID(keyID); err != nil {
		return Key{}, fmt.Errorf("its %s header: %w", pemKeyID, err)
	}
	if block.Type == "MATRIX PRIVATE KEY" && len(block.Bytes) == ed25519.SeedSize {
		return Key{ID: keyID, Private: ed25519.NewKeyFromSeed(block.Bytes)}, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, errors.New("not a PKCS #8 private key")
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return Key{}, errors.New("not an ed25519 key")
	}
	return Key{ID: keyID, Private: private}, nil
}

// parseSynapse reads "ed25519 name seed", of which the first line counts.
func parseSynapse(s string) (Key, error) {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	fields := strings.Fields(line)
	if len(fields) != 3 || fields[0] != "ed25519" {
		return Key{}, errors.New("neither PEM nor \"ed25519 name seed\"")
	}
	keyID := id.KeyID("ed25519:" + fields[1])
	if err := checkKeyID(keyID); err != nil {
		return Key{}, err
	}
	seed, err := DecodeBase64(fields[2])
	if err != nil || len(seed) != ed25519.SeedSize {
		return Key{}, fmt.Errorf("the seed is not base64 of %d bytes", ed25519.SeedSize)
	}
	return Key{ID: keyID, Private: ed25519.NewKeyFromSeed(seed)}, nil
}
