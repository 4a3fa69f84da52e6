package megolm

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/securecomm/securecomm/e2ee/wire"
)

// MaxMessage is the largest message in bytes of base64 that is looked at; events are smaller than this.
const MaxMessage = 1 << 20

var (
	// ErrSignature says that the session's owner did not make a message or session key.
	ErrSignature = errors.New("the session's signature does not match")
	// ErrUnknownIndex says that a message is older than what this session's key can read.
	ErrUnknownIndex = errors.New("the message is older than the key")
)

// Inbound is a session whose messages this device can read, from its first index on.
type Inbound struct {
	public ed25519.PublicKey
	first  ratchet
	last   ratchet // winds forward only, so that reading in order is cheap; never before first
	signed bool
}

// NewInbound reads a session key in the session sharing format and checks its owner's signature.
func NewInbound(key string) (*Inbound, error) {
	raw, err := decodeKey(key, sharedSize, sharedVersion)
	if err != nil {
		return nil, err
	}
	r, public := parseKey(raw)
	if !ed25519.Verify(public, raw[:exportSize], raw[exportSize:]) {
		return nil, fmt.Errorf("reading a session key: %w", ErrSignature)
	}
	return &Inbound{public: public, first: r, last: r, signed: true}, nil
}

// Import reads a session key in the session export format. It is unsigned: whether it is genuine shows
// only when a message decrypts.
func Import(key string) (*Inbound, error) {
	raw, err := decodeKey(key, exportSize, exportVersion)
	if err != nil {
		return nil, err
	}
	r, public := parseKey(raw)
	return &Inbound{public: public, first: r, last: r}, nil
}

func decodeKey(key string, size int, version byte) ([]byte, error) {
	if len(key) > 2*size {
		return nil, fmt.Errorf("reading a session key: %w: too long", wire.ErrMalformed)
	}
	raw, err := wire.DecodeBase64(key)
	if err != nil {
		return nil, fmt.Errorf("reading a session key: %w", errors.Join(wire.ErrMalformed, err))
	}
	if len(raw) != size || raw[0] != version {
		return nil, fmt.Errorf("reading a session key: %w: not of version %d", wire.ErrMalformed, version)
	}
	return raw, nil
}

// ID names the session: its public key.
func (s *Inbound) ID() string { return wire.Base64(s.public) }

// FirstIndex is the number of the oldest message that can be read.
func (s *Inbound) FirstIndex() uint32 { return s.first.index }

// Signed says whether the key came in the sharing format, so that the session's owner vouched for it.
func (s *Inbound) Signed() bool { return s.signed }

// Decrypt reads a message and tells its number. The same message can be read again and again.
func (s *Inbound) Decrypt(body string) (plaintext []byte, index uint32, err error) {
	if len(body) > MaxMessage {
		return nil, 0, fmt.Errorf("decrypting with Megolm: %w: longer than %d bytes", wire.ErrMalformed, MaxMessage)
	}
	raw, err := wire.DecodeBase64(body)
	if err != nil {
		return nil, 0, fmt.Errorf("decrypting with Megolm: %w", errors.Join(wire.ErrMalformed, err))
	}
	m, err := parseMessage(raw)
	if err != nil {
		return nil, 0, fmt.Errorf("decrypting with Megolm: %w", err)
	}
	if !ed25519.Verify(s.public, m.signed, m.signature) {
		return nil, 0, fmt.Errorf("decrypting with Megolm: %w", ErrSignature)
	}
	r, err := s.at(m.index)
	if err != nil {
		return nil, 0, fmt.Errorf("decrypting with Megolm: %w", err)
	}
	cipher := r.cipher()
	if err := cipher.CheckMAC(m.authentic, m.mac); err != nil {
		return nil, 0, fmt.Errorf("decrypting with Megolm: %w", err)
	}
	if plaintext, err = cipher.Decrypt(m.ciphertext); err != nil {
		return nil, 0, fmt.Errorf("decrypting with Megolm: %w", err)
	}
	if m.index > s.last.index {
		s.last = r
	}
	return plaintext, m.index, nil
}

// Export is the session from an index on, in the session export format.
func (s *Inbound) Export(index uint32) (string, error) {
	r, err := s.at(index)
	if err != nil {
		return "", fmt.Errorf("exporting a session: %w", err)
	}
	return wire.Base64(r.appendKey(exportVersion, s.public)), nil
}

// Connected says whether two keys belong to the same session: whether the older one, wound forward, is
// the newer one. A forged export of somebody's session is not connected to the genuine one.
func (s *Inbound) Connected(other *Inbound) bool {
	if !s.public.Equal(other.public) {
		return false
	}
	a, b := s.first, other.first
	a.advance(max(a.index, b.index))
	b.advance(a.index)
	return a == b
}

// at is the ratchet at an index.
func (s *Inbound) at(index uint32) (ratchet, error) {
	r := s.first
	if index < r.index {
		return ratchet{}, ErrUnknownIndex
	}
	if index >= s.last.index {
		r = s.last
	}
	r.advance(index)
	return r, nil
}

type storedInbound struct {
	Key    string `json:"key"` // session export format
	Signed bool   `json:"signed,omitempty"`
}

// MarshalJSON is the session with its secrets.
func (s *Inbound) MarshalJSON() ([]byte, error) {
	return json.Marshal(storedInbound{wire.Base64(s.first.appendKey(exportVersion, s.public)), s.signed})
}

// UnmarshalJSON undoes MarshalJSON.
func (s *Inbound) UnmarshalJSON(b []byte) error {
	var stored storedInbound
	if err := json.Unmarshal(b, &stored); err != nil {
		return fmt.Errorf("reading a Megolm session: %w", err)
	}
	in, err := Import(stored.Key)
	if err != nil {
		return err
	}
	in.signed = stored.Signed
	*s = *in
	return nil
}
