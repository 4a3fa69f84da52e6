package megolm

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/securecomm/securecomm/e2ee/wire"
)

// Outbound is a session with which this device encrypts.
type Outbound struct {
	ratchet ratchet
	signing ed25519.PrivateKey
}

// NewOutbound starts a session with random keys.
func NewOutbound() *Outbound {
	_, signing, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic("no random numbers: " + err.Error()) // crypto/rand never fails on supported systems
	}
	s := &Outbound{signing: signing}
	for i := range s.ratchet.parts {
		rand.Read(s.ratchet.parts[i][:])
	}
	return s
}

// ID names the session: its public key.
func (s *Outbound) ID() string { return wire.Base64(s.public()) }

// Index is the number of the next message, which is also how many there were.
func (s *Outbound) Index() uint32 { return s.ratchet.index }

// Key is the signed session key in the session sharing format; it reads everything from the next message on.
func (s *Outbound) Key() string {
	raw := s.ratchet.appendKey(sharedVersion, s.public())
	return wire.Base64(append(raw, ed25519.Sign(s.signing, raw)...))
}

// Encrypt makes the next message. The session must be stored before the message leaves: a session that
// fell back would use the same key twice.
func (s *Outbound) Encrypt(plaintext []byte) (string, error) {
	if s.ratchet.index == math.MaxUint32 {
		return "", errors.New("encrypting with Megolm: the session is used up")
	}
	cipher := s.ratchet.cipher()
	out := wire.AppendInt([]byte{messageVersion}, 0x08, uint64(s.ratchet.index))
	out = wire.AppendBytes(out, 0x12, cipher.Encrypt(plaintext))
	out = append(out, cipher.MAC(out)...)
	out = append(out, ed25519.Sign(s.signing, out)...)
	s.ratchet.advance(s.ratchet.index + 1)
	return wire.Base64(out), nil
}

func (s *Outbound) public() []byte { return s.signing.Public().(ed25519.PublicKey) }

type storedOutbound struct {
	Key  string `json:"key"` // session export format
	Seed string `json:"seed"`
}

// MarshalJSON is the session with its secrets.
func (s *Outbound) MarshalJSON() ([]byte, error) {
	return json.Marshal(storedOutbound{
		Key:  wire.Base64(s.ratchet.appendKey(exportVersion, s.public())),
		Seed: wire.Base64(s.signing.Seed()),
	})
}

// UnmarshalJSON undoes MarshalJSON.
func (s *Outbound) UnmarshalJSON(b []byte) error {
	var stored storedOutbound
	if err := json.Unmarshal(b, &stored); err != nil {
		return fmt.Errorf("reading a Megolm session: %w", err)
	}
	in, err := Import(stored.Key)
	if err != nil {
		return fmt.Errorf("reading a Megolm session: %w", err)
	}
	seed, err := wire.DecodeKey(stored.Seed)
	if err != nil {
		return fmt.Errorf("reading a Megolm session: %w", err)
	}
	signing := ed25519.NewKeyFromSeed(seed)
	if !in.public.Equal(signing.Public()) {
		return errors.New("reading a Megolm session: the signing key is another session's")
	}
	s.ratchet, s.signing = in.first, signing
	return nil
}
