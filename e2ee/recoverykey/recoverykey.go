// Package recoverykey writes private keys in the form that people copy by hand: base58 in groups of four,
// with a parity byte (Appendices, "Cryptographic key representation").
//
// Its callers are e2ee and the terminal client, for keys of backups and of secret storage. It knows
// nothing of what a key opens.
package recoverykey

import (
	"errors"
	"math/big"
	"strings"
	"unicode"
)

// Size is the length of a key in bytes.
const Size = 32

const (
	alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
	prefix   = "\x8b\x01"
	// maxText is more characters than a key in any spelling has.
	maxText = 1024
)

// ErrInvalid says that a text is not a key. Which characters are wrong it does not say, as they are secret.
var ErrInvalid = errors.New("not a recovery key: check for mistyped characters")

// Encode writes a key of Size bytes.
func Encode(key [Size]byte) string {
	raw := append([]byte(prefix), key[:]...)
	raw = append(raw, parity(raw))
	// The first byte is never zero, so the number has no leading zeros to keep.
	n, base, digit := new(big.Int).SetBytes(raw), big.NewInt(58), new(big.Int)
	var digits []byte
	for n.Sign() > 0 {
		n.DivMod(n, base, digit)
		digits = append(digits, alphabet[digit.Int64()])
	}
	var out strings.Builder
	for i := len(digits) - 1; i >= 0; i-- {
		out.WriteByte(digits[i])
		if written := len(digits) - i; written%4 == 0 && i > 0 {
			out.WriteByte(' ')
		}
	}
	return out.String()
}

// Decode reads a key, whatever its white space.
func Decode(text string) (key [Size]byte, err error) {
	if len(text) > maxText {
		return key, ErrInvalid
	}
	n, base := new(big.Int), big.NewInt(58)
	for _, c := range text {
		if unicode.IsSpace(c) {
			continue
		}
		digit := strings.IndexRune(alphabet, c)
		if digit < 0 {
			return key, ErrInvalid
		}
		n.Add(n.Mul(n, base), big.NewInt(int64(digit)))
	}
	raw := n.Bytes()
	if len(raw) != len(prefix)+Size+1 || string(raw[:len(prefix)]) != prefix || parity(raw) != 0 {
		return key, ErrInvalid
	}
	copy(key[:], raw[len(prefix):])
	return key, nil
}

func parity(b []byte) (p byte) {
	for _, c := range b {
		p ^= c
	}
	return p
}
