package olm

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/securecomm/securecomm/e2ee/wire"
)

// Session is one side of a conversation between two devices.
type Session struct{ s sessionState }

type sessionState struct {
	OneTimeKey Key  `json:"one_time_key"`
	BaseKey    Key  `json:"base_key"`
	Initiator  Key  `json:"initiator"` // the identity key of who started the session
	Received   bool `json:"received"`  // anything at all: until then, messages carry the pre-key part
	ratchet
}

// NewOutbound starts a session with the device that has this identity and published this one-time key.
// That both are really that device's is for the caller to know.
func (a *Account) NewOutbound(identity, oneTimeKey Key) (*Session, error) {
	base, first := newKeyPair(), newKeyPair()
	secret, err := tripleDH(
		dh{a.s.Identity, oneTimeKey}, dh{base, identity}, dh{base, oneTimeKey},
	)
	if err != nil {
		return nil, fmt.Errorf("starting an Olm session: %w", err)
	}
	root, chain := rootKeys(secret, nil, "OLM_ROOT")
	return &Session{sessionState{
		OneTimeKey: oneTimeKey, BaseKey: base.public(), Initiator: a.Identity(),
		ratchet: ratchet{Root: root, Sending: &sendingChain{Pair: first, Key: chain}},
	}}, nil
}

// NewInbound starts the other side from the first pre-key message, and decrypts it. The sender's identity
// is the one that the event claims; the message must agree. Only if all is well is the one-time key
// removed from the account; the caller stores session and account together.
func (a *Account) NewInbound(sender Key, m Message) (*Session, []byte, error) {
	p, err := ParsePreKey(m)
	if err != nil {
		return nil, nil, fmt.Errorf("accepting an Olm session: %w", err)
	}
	if p.Identity != sender {
		return nil, nil, fmt.Errorf("accepting an Olm session: %w: the identity key is not the sender's", wire.ErrMalformed)
	}
	pair, ok := a.find(p.OneTimeKey)
	if !ok {
		return nil, nil, fmt.Errorf("accepting an Olm session: %w", ErrUnknownKey)
	}
	secret, err := tripleDH(dh{pair, p.Identity}, dh{a.s.Identity, p.BaseKey}, dh{pair, p.BaseKey})
	if err != nil {
		return nil, nil, fmt.Errorf("accepting an Olm session: %w", err)
	}
	inner, err := parseNormal(p.message)
	if err != nil {
		return nil, nil, fmt.Errorf("accepting an Olm session: %w", err)
	}
	root, chain := rootKeys(secret, nil, "OLM_ROOT")
	s := &Session{sessionState{
		OneTimeKey: p.OneTimeKey, BaseKey: p.BaseKey, Initiator: p.Identity,
		ratchet: ratchet{Root: root, Receiving: []receivingChain{{Ratchet: inner.ratchet, Key: chain}}},
	}}
	plaintext, err := s.Decrypt(m)
	if err != nil {
		return nil, nil, fmt.Errorf("accepting an Olm session: %w", err)
	}
	a.remove(p.OneTimeKey)
	return s, plaintext, nil
}

// ID names a session; both sides compute the same.
func (s *Session) ID() string {
	h := sha256.New()
	h.Write(s.s.Initiator[:])
	h.Write(s.s.BaseKey[:])
	h.Write(s.s.OneTimeKey[:])
	return wire.Base64(h.Sum(nil))
}

// Matches says whether a pre-key message belongs to this session.
func (s *Session) Matches(p PreKey) bool {
	return s.s.Initiator == p.Identity && s.s.BaseKey == p.BaseKey && s.s.OneTimeKey == p.OneTimeKey
}

// Encrypt makes the next message. The session must be stored before the message leaves: a session that
// fell back would use the same key twice.
func (s *Session) Encrypt(plaintext []byte) (Message, error) {
	raw, err := s.s.encrypt(plaintext)
	if err != nil {
		return Message{}, fmt.Errorf("encrypting with Olm: %w", err)
	}
	if s.s.Received {
		return Message{Type: TypeNormal, Body: wire.Base64(raw)}, nil
	}
	p := PreKey{OneTimeKey: s.s.OneTimeKey, BaseKey: s.s.BaseKey, Identity: s.s.Initiator, message: raw}
	return Message{Type: TypePreKey, Body: wire.Base64(p.encode())}, nil
}

// Decrypt reads a message of either type. A session is unchanged if it fails.
func (s *Session) Decrypt(m Message) ([]byte, error) {
	var raw []byte
	switch m.Type {
	case TypeNormal:
		var err error
		if raw, err = body(m); err != nil {
			return nil, fmt.Errorf("decrypting with Olm: %w", err)
		}
	case TypePreKey:
		p, err := ParsePreKey(m)
		if err != nil {
			return nil, fmt.Errorf("decrypting with Olm: %w", err)
		}
		if !s.Matches(p) {
			return nil, fmt.Errorf("decrypting with Olm: %w: the message belongs to another session", wire.ErrMalformed)
		}
		raw = p.message
	default:
		return nil, fmt.Errorf("decrypting with Olm: %w: an unknown message type", wire.ErrMalformed)
	}
	parsed, err := parseNormal(raw)
	if err != nil {
		return nil, fmt.Errorf("decrypting with Olm: %w", err)
	}
	plaintext, err := s.s.decrypt(parsed)
	if err != nil {
		return nil, fmt.Errorf("decrypting with Olm: %w", err)
	}
	s.s.Received = true
	return plaintext, nil
}

// MarshalJSON is the session with its secret keys.
func (s *Session) MarshalJSON() ([]byte, error) { return json.Marshal(s.s) }

// UnmarshalJSON undoes MarshalJSON.
func (s *Session) UnmarshalJSON(b []byte) error {
	var state sessionState
	if err := json.Unmarshal(b, &state); err != nil {
		return fmt.Errorf("reading an Olm session: %w", err)
	}
	if state.Sending == nil && len(state.Receiving) == 0 || state.Sending != nil && state.Sending.Pair.private == nil {
		return errors.New("reading an Olm session: a chain is missing")
	}
	s.s = state
	return nil
}

type dh struct {
	ours   keyPair
	theirs Key
}

// tripleDH concatenates three agreements. The order is the initiator's: identity with one-time key, base
// key with identity, base key with one-time key.
func tripleDH(agreements ...dh) ([]byte, error) {
	var secret []byte
	for _, a := range agreements {
		part, err := a.ours.shared(a.theirs)
		if err != nil {
			return nil, err
		}
		secret = append(secret, part...)
	}
	return secret, nil
}
