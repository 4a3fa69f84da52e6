// Package keyexport is the file in which room keys travel from one client to another, encrypted under a
// passphrase (Client-Server API, "Key exports").
//
// Its callers are e2ee, for the format of exported sessions, and the terminal client. It knows nothing of
// whom to trust: what comes out of a file is as genuine as the file.
package keyexport

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/securecomm/securecomm/e2ee/wire"
	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	// Rounds is how often PBKDF2 hashes in files that we write.
	Rounds = 500_000
	// MaxRounds is the most in files that we read; more would be an attack on our time.
	MaxRounds = 10_000_000
	// MaxFile is the largest file in bytes that is looked at.
	MaxFile = 256 << 20

	begin = "-----BEGIN MEGOLM SESSION DATA-----"
	end   = "-----END MEGOLM SESSION DATA-----"

	headerSize = 1 + 16 + 16 + 4
	macSize    = 32
	lineLength = 96
)

var (
	// ErrMalformed says that a text is not a key export.
	ErrMalformed = errors.New("not a key export")
	// ErrPassphrase says that the passphrase is wrong or the file was changed; it can't be known which.
	ErrPassphrase = errors.New("wrong passphrase, or the file was changed")
)

// Session is one room key, as exports and backups hold it; in backups, room and session are empty.
type Session struct {
	Algorithm         string            `json:"algorithm"`
	RoomID            id.RoomID         `json:"room_id,omitempty"`
	SessionID         string            `json:"session_id,omitempty"`
	SessionKey        string            `json:"session_key"` // session export format
	SenderKey         string            `json:"sender_key"`
	SenderClaimedKeys map[string]string `json:"sender_claimed_keys"`
	ForwardingChain   []string          `json:"forwarding_curve25519_key_chain"`
	SharedHistory     bool              `json:"shared_history"`
}

// Seal makes a file.
func Seal(sessions []Session, passphrase string) ([]byte, error) {
	if sessions == nil {
		sessions = []Session{}
	}
	plaintext, err := json.Marshal(sessions)
	if err != nil {
		return nil, fmt.Errorf("exporting keys: %w", err)
	}
	raw := make([]byte, headerSize, headerSize+len(plaintext)+macSize)
	raw[0] = 1
	rand.Read(raw[1:33])
	raw[17+8] &= 0x7f // bit 63 of the initialization vector, where implementations of the counter differ
	binary.BigEndian.PutUint32(raw[33:], Rounds)
	stream, macKey, err := open(raw, passphrase)
	if err != nil {
		return nil, fmt.Errorf("exporting keys: %w", err)
	}
	raw = raw[:headerSize+len(plaintext)]
	stream.XORKeyStream(raw[headerSize:], plaintext)
	raw = append(raw, wire.HMAC(macKey, raw)...)
	text := base64.StdEncoding.EncodeToString(raw)
	var out bytes.Buffer
	fmt.Fprintln(&out, begin)
	for len(text) > 0 {
		n := min(lineLength, len(text))
		fmt.Fprintln(&out, text[:n])
		text = text[n:]
	}
	fmt.Fprintln(&out, end)
	return out.Bytes(), nil
}

// Open reads a file.
func Open(file []byte, passphrase string) ([]Session, error) {
	plaintext, err := decrypt(file, passphrase)
	if err != nil {
		return nil, fmt.Errorf("importing keys: %w", err)
	}
	var sessions []Session
	if err := json.Unmarshal(plaintext, &sessions); err != nil {
		// The decoder's error would quote secrets.
		return nil, fmt.Errorf("importing keys: %w: its content is not a list of sessions", ErrMalformed)
	}
	return sessions, nil
}

func decrypt(file []byte, passphrase string) ([]byte, error) {
	raw, err := unwrap(file)
	if err != nil {
		return nil, err
	}
	stream, macKey, err := open(raw, passphrase)
	if err != nil {
		return nil, err
	}
	body := raw[:len(raw)-macSize]
	if !hmac.Equal(wire.HMAC(macKey, body), raw[len(body):]) {
		return nil, ErrPassphrase
	}
	plaintext := body[headerSize:]
	stream.XORKeyStream(plaintext, plaintext)
	return plaintext, nil
}

// unwrap takes away the lines around the base64.
func unwrap(file []byte) ([]byte, error) {
	if len(file) > MaxFile {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrMalformed, MaxFile)
	}
	_, rest, ok := bytes.Cut(file, []byte(begin))
	text, _, closed := bytes.Cut(rest, []byte(end))
	if !ok || !closed {
		return nil, fmt.Errorf("%w: the lines BEGIN and END are missing", ErrMalformed)
	}
	text = bytes.Join(bytes.Fields(text), nil)
	raw, err := base64.RawStdEncoding.DecodeString(string(bytes.TrimRight(text, "=")))
	if err != nil || len(raw) < headerSize+macSize || raw[0] != 1 {
		return nil, fmt.Errorf("%w: not base64 of version 1", ErrMalformed)
	}
	return raw, nil
}

// open derives the keys that the header asks for.
func open(header []byte, passphrase string) (stream cipher.Stream, macKey []byte, err error) {
	rounds := binary.BigEndian.Uint32(header[33:])
	if rounds == 0 || rounds > MaxRounds {
		return nil, nil, fmt.Errorf("%w: %d rounds, over the limit of %d", ErrMalformed, rounds, MaxRounds)
	}
	keys, err := pbkdf2.Key(sha512.New, passphrase, header[1:17], int(rounds), 2*wire.KeySize)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(keys[:wire.KeySize])
	if err != nil {
		return nil, nil, err
	}
	return cipher.NewCTR(block, header[17:33]), keys[wire.KeySize:], nil
}
