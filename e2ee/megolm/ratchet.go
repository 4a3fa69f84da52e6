package megolm

import (
	"encoding/binary"
	"fmt"

	"github.com/securecomm/securecomm/e2ee/wire"
)

const (
	parts      = 4
	stateSize  = parts * wire.KeySize
	sharedSize = 1 + 4 + stateSize + publicSize + signatureSize
	exportSize = sharedSize - signatureSize

	publicSize    = 32
	signatureSize = 64
)

// ratchet is R_i with its counter i.
type ratchet struct {
	index uint32
	parts [parts][wire.KeySize]byte
}

// advance winds the ratchet forward to an index not before its own, with at most 1020 hashes.
//
// Part j changes at every multiple of 2^(8*(3-j)). So for each part from the slowest to the fastest, it
// is hashed as often as its own multiples lie between; and with the last of these hashes, all faster
// parts are seeded anew from it.
func (r *ratchet) advance(to uint32) {
	for j := range parts {
		shift := uint(8 * (parts - 1 - j))
		// The difference of the counters' upper bits, for this part only: what is above it was dealt
		// with by the part before, which also reset the bits below to zero.
		steps := (to >> shift) - (r.index >> shift)
		if steps == 0 {
			continue
		}
		for range steps - 1 {
			r.hash(j, j)
		}
		for k := parts - 1; k >= j; k-- {
			r.hash(j, k)
		}
		r.index = to >> shift << shift
	}
}

// hash is R_to = H_to(R_from).
func (r *ratchet) hash(from, to int) {
	copy(r.parts[to][:], wire.HMAC(r.parts[from][:], []byte{byte(to)}))
}

func (r *ratchet) cipher() *wire.Cipher {
	return wire.NewCipher(r.state(), "MEGOLM_KEYS")
}

func (r *ratchet) state() []byte {
	out := make([]byte, 0, stateSize)
	for i := range r.parts {
		out = append(out, r.parts[i][:]...)
	}
	return out
}

// appendKey appends the part that sharing and export format have in common.
func (r *ratchet) appendKey(version byte, public []byte) []byte {
	out := binary.BigEndian.AppendUint32([]byte{version}, r.index)
	out = append(out, r.state()...)
	return append(out, public...)
}

// parseKey undoes appendKey; the length was checked.
func parseKey(raw []byte) (r ratchet, public []byte) {
	r.index = binary.BigEndian.Uint32(raw[1:])
	for i := range r.parts {
		copy(r.parts[i][:], raw[5+i*wire.KeySize:])
	}
	return r, raw[5+stateSize : exportSize]
}

// message is a parsed Megolm message.
type message struct {
	index      uint32
	ciphertext []byte
	authentic  []byte // what the authentication code covers
	mac        []byte
	signed     []byte // what the signature covers
	signature  []byte
}

const (
	messageVersion = 3
	sharedVersion  = 2
	exportVersion  = 1
)

func parseMessage(raw []byte) (message, error) {
	if len(raw) < 1+wire.MACSize+signatureSize || raw[0] != messageVersion {
		return message{}, fmt.Errorf("%w: not a Megolm message of version %d", wire.ErrMalformed, messageVersion)
	}
	signed := len(raw) - signatureSize
	authentic := signed - wire.MACSize
	m := message{
		authentic: raw[:authentic], mac: raw[authentic:signed],
		signed: raw[:signed], signature: raw[signed:],
	}
	seen := 0
	err := wire.Fields(raw[1:authentic], func(f wire.Field) error {
		switch f.Tag {
		case 0x08:
			if f.Int >= 1<<32 {
				return fmt.Errorf("%w: a message index out of range", wire.ErrMalformed)
			}
			m.index = uint32(f.Int)
			seen |= 1
		case 0x12:
			m.ciphertext = f.Bytes
			seen |= 2
		}
		return nil
	})
	if err == nil && seen != 3 {
		err = fmt.Errorf("%w: a Megolm message lacks a field", wire.ErrMalformed)
	}
	return m, err
}
