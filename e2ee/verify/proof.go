package verify

import (
	"crypto/hmac"
	"maps"
	"slices"
	"strings"

	"github.com/securecomm/securecomm/e2ee/wire"
	"github.com/securecomm/securecomm/homeserver/id"
)

// Keys are public keys in base64 by their IDs: "ed25519:" with a device's ID, or with a master key itself.
type Keys map[id.KeyID]string

// Emoji is one of the seven that are compared.
type Emoji struct{ Symbol, Name string }

// Decimals are the three numbers that the users compare. There is nothing to compare before Comparable.
func (s *Session) Decimals() [3]int {
	b := s.text(5)
	return [3]int{
		1000 + (int(b[0])<<5 | int(b[1])>>3),
		1000 + (int(b[1]&7)<<10 | int(b[2])<<2 | int(b[3])>>6),
		1000 + (int(b[3]&0x3f)<<7 | int(b[4])>>1),
	}
}

// Emojis are the seven pictures that the users compare instead of the numbers.
func (s *Session) Emojis() (seven [7]Emoji) {
	var bits uint64
	for _, b := range s.text(6) {
		bits = bits<<8 | uint64(b)
	}
	for i := range seven {
		seven[i] = emojis[bits>>(42-6*i)&63]
	}
	return seven
}

// text is the bytes that the texts show.
func (s *Session) text(n int) []byte {
	own := []string{string(s.own.User), string(s.own.Device), s.public}
	other := []string{string(s.other.User), string(s.other.Device), s.theirs}
	parts := append(own, other...)
	if !s.weStarted {
		parts = append(other, own...)
	}
	info := strings.Join(append(append([]string{"MATRIX_KEY_VERIFICATION_SAS"}, parts...), s.transaction), "|")
	return wire.Derive(s.shared, nil, info, n)
}

// Confirm says that the users found the texts the same. It proves to the other side which own keys this side has,
// and checks their proof against the keys that they are expected to have.
func (s *Session) Confirm(own, expected Keys) (answers []Message, err error) {
	if !s.Comparable() {
		return []Message{s.Cancel(CodeUnexpected)}, &Cancelled{Code: CodeUnexpected}
	}
	c := s.content()
	c.MAC = map[id.KeyID]string{}
	for key, public := range own {
		c.MAC[key] = s.mac(s.own, s.other, string(key), public)
	}
	c.Keys = s.mac(s.own, s.other, keyIDs, list(own))
	s.expected, s.state = expected, awaitMAC
	answers = []Message{c.message(TypeMAC)}
	if s.proof == nil {
		return answers, nil
	}
	more, code := s.check(s.proof)
	answers = append(answers, more...)
	if code != "" {
		return append(answers, s.Cancel(code)), &Cancelled{Code: code}
	}
	return answers, nil
}

const keyIDs = "KEY_IDS"

// check checks their proof: no key that is known here may be another one there, and one at least has to be known.
func (s *Session) check(c *content) ([]Message, string) {
	if len(c.MAC) > maxMACs {
		return nil, CodeMalformed
	}
	if !sameMAC(c.Keys, s.mac(s.other, s.own, keyIDs, list(c.MAC))) {
		return nil, CodeKey
	}
	var proven []id.KeyID
	for _, key := range slices.Sorted(maps.Keys(c.MAC)) {
		public, known := s.expected[key]
		if !known {
			continue
		}
		if !sameMAC(c.MAC[key], s.mac(s.other, s.own, string(key), public)) {
			return nil, CodeKey
		}
		proven = append(proven, key)
	}
	if !slices.Contains(proven, "ed25519:"+id.KeyID(s.other.Device)) {
		return nil, CodeKey // whoever it is does not even know the key of the device that it is
	}
	s.proven, s.state = proven, awaitDone
	if s.theirsDone {
		s.state = ended
	}
	return []Message{s.content().message(TypeDone)}, ""
}

// mac is hkdf-hmac-sha256.v2, or hkdf-hmac-sha256.
func (s *Session) mac(from, to Party, what, value string) string {
	info := "MATRIX_KEY_VERIFICATION_MAC" + string(from.User) + string(from.Device) + string(to.User) + string(to.Device) + s.transaction + what
	sum := wire.HMAC(wire.Derive(s.shared, nil, info, wire.KeySize), []byte(value))
	if s.macMethod == oldMACMethod {
		return oldBase64(sum)
	}
	return wire.Base64(sum)
}

const base64Alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// oldBase64 is how libolm encoded a code: within one buffer, so that from the fourth byte on it read what it had written
// itself (Client-Server API, "MAC calculation").
func oldBase64(sum []byte) string {
	size := len(sum)
	buffer := append(slices.Clone(sum), make([]byte, (size+2)/3*4-size)...)
	out := 0
	for in := 0; in < size; in += 3 {
		bits, digits := 0, min(size-in, 3)+1
		for i := range 3 {
			bits <<= 8
			if in+i < size {
				bits |= int(buffer[in+i])
			}
		}
		for i := range digits {
			buffer[out+i] = base64Alphabet[bits>>(18-6*i)&63]
		}
		out += digits
	}
	return string(buffer[:out])
}

func sameMAC(theirs, ours string) bool {
	return hmac.Equal([]byte(strings.TrimRight(theirs, "=")), []byte(ours))
}

func list(keys map[id.KeyID]string) string {
	var names []string
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		names = append(names, string(key))
	}
	return strings.Join(names, ",")
}
