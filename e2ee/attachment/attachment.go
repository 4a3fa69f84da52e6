// Package attachment encrypts the files that go with encrypted events (Client-Server API, "Sending
// encrypted attachments"): AES-256 in counter mode under a key of its own, with a hash of the ciphertext.
//
// Its caller is the terminal client. It knows nothing of events, and uploads nothing.
package attachment

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/securecomm/securecomm/e2ee/wire"
)

var (
	// ErrMalformed says that a description of a file is not one of version 2 that can be read.
	ErrMalformed = errors.New("malformed description of an encrypted file")
	// ErrHash says that the file is not the one that was described: somebody changed it.
	ErrHash = errors.New("the file is not what its sender encrypted")
)

// File is the property file of a message's content.
type File struct {
	URL    string            `json:"url"`
	V      string            `json:"v"`
	Key    JWK               `json:"key"`
	IV     string            `json:"iv"`
	Hashes map[string]string `json:"hashes"`
}

// JWK is a symmetric JSON Web Key.
type JWK struct {
	Kty    string   `json:"kty"`
	KeyOps []string `json:"key_ops"`
	Alg    string   `json:"alg"`
	K      string   `json:"k"`
	Ext    bool     `json:"ext"`
}

// Encrypt copies src to dst, encrypted under a new key. The URL of the result is for the caller to fill
// in after the upload.
func Encrypt(dst io.Writer, src io.Reader) (File, error) {
	key, iv := make([]byte, wire.KeySize), make([]byte, aes.BlockSize)
	rand.Read(key)
	rand.Read(iv[:8]) // the other half counts blocks from zero
	stream, err := newStream(key, iv)
	if err != nil {
		return File{}, fmt.Errorf("encrypting a file: %w", err)
	}
	hash := sha256.New()
	out := cipher.StreamWriter{S: stream, W: io.MultiWriter(dst, hash)}
	if _, err := io.Copy(out, src); err != nil {
		return File{}, fmt.Errorf("encrypting a file: %w", err)
	}
	return File{
		V: "v2",
		Key: JWK{
			Kty: "oct", KeyOps: []string{"encrypt", "decrypt"}, Alg: "A256CTR",
			K: base64.RawURLEncoding.EncodeToString(key), Ext: true,
		},
		IV:     wire.Base64(iv),
		Hashes: map[string]string{"sha256": wire.Base64(hash.Sum(nil))},
	}, nil
}

// Decrypt copies src to dst, decrypted. It reads src twice: no byte is written before the hash of all of
// it was found right, and if src was changed in between, the error says so.
func Decrypt(dst io.Writer, src io.ReadSeeker, f File) error {
	stream, want, err := f.open()
	if err != nil {
		return fmt.Errorf("decrypting a file: %w", err)
	}
	if err := check(io.Discard, src, want); err != nil {
		return fmt.Errorf("decrypting a file: %w", err)
	}
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("decrypting a file: %w", err)
	}
	if err := check(cipher.StreamWriter{S: stream, W: dst}, src, want); err != nil {
		return fmt.Errorf("decrypting a file: %w", err)
	}
	return nil
}

func check(dst io.Writer, src io.Reader, want []byte) error {
	hash := sha256.New()
	if _, err := io.Copy(dst, io.TeeReader(src, hash)); err != nil {
		return err
	}
	if !hmac.Equal(hash.Sum(nil), want) {
		return ErrHash
	}
	return nil
}

func (f File) open() (cipher.Stream, []byte, error) {
	if f.V != "v2" || f.Key.Kty != "oct" || f.Key.Alg != "A256CTR" {
		return nil, nil, fmt.Errorf("%w: not version 2 with A256CTR", ErrMalformed)
	}
	key, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(f.Key.K, "="))
	if err != nil || len(key) != wire.KeySize {
		return nil, nil, fmt.Errorf("%w: the key", ErrMalformed)
	}
	iv, err := wire.DecodeBase64(f.IV)
	if err != nil || len(iv) != aes.BlockSize {
		return nil, nil, fmt.Errorf("%w: the initialization vector", ErrMalformed)
	}
	hash, err := wire.DecodeBase64(f.Hashes["sha256"])
	if err != nil || len(hash) != sha256.Size {
		return nil, nil, fmt.Errorf("%w: the hash", ErrMalformed)
	}
	stream, err := newStream(key, iv)
	return stream, hash, err
}

func newStream(key, iv []byte) (cipher.Stream, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewCTR(block, iv), nil
}
