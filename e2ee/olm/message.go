package olm

import (
	"errors"
	"fmt"

	"github.com/securecomm/securecomm/e2ee/wire"
)

// The types of messages, as they stand in the type property of an event's ciphertext.
const (
	TypePreKey = 0
	TypeNormal = 1
)

// MaxMessage is the largest message in bytes that is looked at; to-device events are smaller than this.
const MaxMessage = 1 << 20

const version = 3

// Message is one encrypted message: what stands under a device's key in an event's ciphertext.
type Message struct {
	Type int    `json:"type"`
	Body string `json:"body"`
}

// PreKey is the outer part of a pre-key message: what the receiver needs to set up the session.
type PreKey struct {
	OneTimeKey, BaseKey, Identity Key
	message                       []byte
}

// ParsePreKey reads a message of TypePreKey. Nothing in it is authenticated yet.
func ParsePreKey(m Message) (PreKey, error) {
	if m.Type != TypePreKey {
		return PreKey{}, fmt.Errorf("%w: not a pre-key message", wire.ErrMalformed)
	}
	payload, err := body(m)
	if err != nil {
		return PreKey{}, err
	}
	var p PreKey
	keys := 0
	err = wire.Fields(payload[1:], func(f wire.Field) error {
		var key *Key
		switch f.Tag {
		case 0x0a:
			key = &p.OneTimeKey
		case 0x12:
			key = &p.BaseKey
		case 0x1a:
			key = &p.Identity
		case 0x22:
			p.message = f.Bytes
			return nil
		default:
			return nil
		}
		if len(f.Bytes) != len(key) {
			return fmt.Errorf("%w: a key of %d bytes", wire.ErrMalformed, len(f.Bytes))
		}
		*key, keys = Key(f.Bytes), keys|1<<(f.Tag>>3)
		return nil
	})
	if err == nil && (keys != 1<<1|1<<2|1<<3 || p.message == nil) {
		err = fmt.Errorf("%w: a pre-key message lacks a field", wire.ErrMalformed)
	}
	return p, err
}

func (p PreKey) encode() []byte {
	out := wire.AppendBytes([]byte{version}, 0x0a, p.OneTimeKey[:])
	out = wire.AppendBytes(out, 0x12, p.BaseKey[:])
	out = wire.AppendBytes(out, 0x1a, p.Identity[:])
	return wire.AppendBytes(out, 0x22, p.message)
}

// normal is a parsed message of TypeNormal.
type normal struct {
	ratchet    Key
	index      uint32
	ciphertext []byte
	authentic  []byte // everything that the code covers
	mac        []byte
}

func parseNormal(raw []byte) (normal, error) {
	if len(raw) < 1+wire.MACSize || raw[0] != version {
		return normal{}, fmt.Errorf("%w: not an Olm message of version %d", wire.ErrMalformed, version)
	}
	end := len(raw) - wire.MACSize
	m := normal{authentic: raw[:end], mac: raw[end:]}
	seen := 0
	err := wire.Fields(raw[1:end], func(f wire.Field) error {
		switch f.Tag {
		case 0x0a:
			if len(f.Bytes) != len(m.ratchet) {
				return fmt.Errorf("%w: a ratchet key of %d bytes", wire.ErrMalformed, len(f.Bytes))
			}
			m.ratchet = Key(f.Bytes)
			seen |= 1
		case 0x10:
			if f.Int >= 1<<32 {
				return fmt.Errorf("%w: a chain index out of range", wire.ErrMalformed)
			}
			m.index = uint32(f.Int)
			seen |= 2
		case 0x22:
			m.ciphertext = f.Bytes
			seen |= 4
		}
		return nil
	})
	if err == nil && seen != 7 {
		err = fmt.Errorf("%w: an Olm message lacks a field", wire.ErrMalformed)
	}
	return m, err
}

func body(m Message) ([]byte, error) {
	if len(m.Body) > MaxMessage {
		return nil, fmt.Errorf("%w: longer than %d bytes", wire.ErrMalformed, MaxMessage)
	}
	raw, err := wire.DecodeBase64(m.Body)
	if err != nil {
		return nil, errors.Join(wire.ErrMalformed, err)
	}
	if len(raw) == 0 || raw[0] != version {
		return nil, fmt.Errorf("%w: not an Olm message of version %d", wire.ErrMalformed, version)
	}
	return raw, nil
}
