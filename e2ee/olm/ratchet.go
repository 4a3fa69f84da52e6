package olm

import (
	"errors"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/e2ee/wire"
)

const (
	// MaxReceivingChains is how many of the other side's ratchet keys are remembered; a message on an
	// older one can't be read any more.
	MaxReceivingChains = 5
	// MaxSkipped is how many keys of messages that did not come yet one session remembers.
	MaxSkipped = 200
	// MaxGap is how many messages of a chain may be missing before one; more is an attempt to make us work.
	MaxGap = 2000
)

var (
	// ErrGap says that too many messages are missing before this one.
	ErrGap = errors.New("too many messages are missing before this one")
	// ErrNoKey says that a message was read before, or is so late that its key was dropped.
	ErrNoKey = errors.New("the key of this message is gone: it was read before, or it came too late")
)

// ratchet is the double ratchet without the parts that start a session.
type ratchet struct {
	Root      Key              `json:"root"`
	Sending   *sendingChain    `json:"sending,omitempty"`
	Receiving []receivingChain `json:"receiving,omitempty"` // the newest first
	Skipped   []skippedKey     `json:"skipped,omitempty"`   // the oldest first
}

type sendingChain struct {
	Pair  keyPair `json:"pair"`
	Key   Key     `json:"key"`
	Index uint32  `json:"index"`
}

type receivingChain struct {
	Ratchet Key    `json:"ratchet"`
	Key     Key    `json:"key"`
	Index   uint32 `json:"index"`
}

type skippedKey struct {
	Ratchet Key    `json:"ratchet"`
	Index   uint32 `json:"index"`
	Key     Key    `json:"key"`
}

func (r *ratchet) encrypt(plaintext []byte) ([]byte, error) {
	if r.Sending == nil {
		pair := newKeyPair()
		secret, err := pair.shared(r.Receiving[0].Ratchet)
		if err != nil {
			return nil, err
		}
		chain := Key{}
		r.Root, chain = rootKeys(secret, r.Root[:], "OLM_RATCHET")
		r.Sending = &sendingChain{Pair: pair, Key: chain}
	}
	c := r.Sending
	key := messageKey(c.Key)
	cipher := wire.NewCipher(key[:], "OLM_KEYS")
	public := c.Pair.public()
	out := wire.AppendBytes([]byte{version}, 0x0a, public[:])
	out = wire.AppendInt(out, 0x10, uint64(c.Index))
	out = wire.AppendBytes(out, 0x22, cipher.Encrypt(plaintext))
	out = append(out, cipher.MAC(out)...)
	if c.Index++; c.Index == 0 {
		return nil, errors.New("the chain is used up")
	}
	c.Key = nextKey(c.Key)
	return out, nil
}

func (r *ratchet) decrypt(m normal) ([]byte, error) {
	i := slices.IndexFunc(r.Receiving, func(c receivingChain) bool { return c.Ratchet == m.ratchet })
	if i < 0 {
		return r.decryptOnNewChain(m)
	}
	if m.index < r.Receiving[i].Index {
		return r.decryptSkipped(m)
	}
	chain, skipped, plaintext, err := r.Receiving[i].decrypt(m)
	if err != nil {
		return nil, err
	}
	r.Receiving[i] = chain
	r.remember(skipped)
	return plaintext, nil
}

// decryptOnNewChain is for a ratchet key that was not seen before: the other side has answered to our
// current one.
func (r *ratchet) decryptOnNewChain(m normal) ([]byte, error) {
	if r.Sending == nil {
		// The other side can't have a newer ratchet key than the one we have not answered to.
		return nil, fmt.Errorf("%w: an unexpected ratchet key", wire.ErrMalformed)
	}
	secret, err := r.Sending.Pair.shared(m.ratchet)
	if err != nil {
		return nil, err
	}
	root, key := rootKeys(secret, r.Root[:], "OLM_RATCHET")
	chain, skipped, plaintext, err := receivingChain{Ratchet: m.ratchet, Key: key}.decrypt(m)
	if err != nil {
		return nil, err
	}
	r.Root, r.Sending = root, nil
	r.Receiving = slices.Insert(r.Receiving, 0, chain)
	if len(r.Receiving) > MaxReceivingChains {
		r.Receiving = r.Receiving[:MaxReceivingChains]
	}
	r.remember(skipped)
	return plaintext, nil
}

func (r *ratchet) decryptSkipped(m normal) ([]byte, error) {
	i := slices.IndexFunc(r.Skipped, func(k skippedKey) bool { return k.Ratchet == m.ratchet && k.Index == m.index })
	if i < 0 {
		return nil, ErrNoKey
	}
	plaintext, err := open(r.Skipped[i].Key, m)
	if err != nil {
		return nil, err
	}
	r.Skipped = slices.Delete(r.Skipped, i, i+1)
	return plaintext, nil
}

func (r *ratchet) remember(keys []skippedKey) {
	r.Skipped = append(r.Skipped, keys...)
	if over := len(r.Skipped) - MaxSkipped; over > 0 {
		r.Skipped = slices.Delete(r.Skipped, 0, over)
	}
}

// decrypt is the chain as it is after the message, with the keys that were skipped on the way.
func (c receivingChain) decrypt(m normal) (receivingChain, []skippedKey, []byte, error) {
	if m.index-c.Index > MaxGap {
		return c, nil, nil, ErrGap
	}
	var skipped []skippedKey
	for c.Index < m.index {
		skipped = append(skipped, skippedKey{c.Ratchet, c.Index, messageKey(c.Key)})
		c.Key, c.Index = nextKey(c.Key), c.Index+1
	}
	plaintext, err := open(messageKey(c.Key), m)
	if err != nil {
		return c, nil, nil, err
	}
	c.Key, c.Index = nextKey(c.Key), c.Index+1
	return c, skipped, plaintext, nil
}

func open(key Key, m normal) ([]byte, error) {
	cipher := wire.NewCipher(key[:], "OLM_KEYS")
	if err := cipher.CheckMAC(m.authentic, m.mac); err != nil {
		return nil, err
	}
	return cipher.Decrypt(m.ciphertext)
}

func messageKey(chain Key) Key { return Key(wire.HMAC(chain[:], []byte{1})) }

func nextKey(chain Key) Key { return Key(wire.HMAC(chain[:], []byte{2})) }

func rootKeys(secret, salt []byte, info string) (root, chain Key) {
	okm := wire.Derive(secret, salt, info, 2*wire.KeySize)
	return Key(okm[:wire.KeySize]), Key(okm[wire.KeySize:])
}
