package vault

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	magicName = "SecureComm vault "
	magic     = magicName + "2\n"
	maxHeader = 4096
	// MaxTransaction is the largest transaction in bytes.
	MaxTransaction = 256 << 20
)

// header is in clear, but for the master key; all of it is authenticated by the master key's seal.
type header struct {
	Derivation derivation `json:"derivation"`
	Nonce      []byte     `json:"nonce"`
	Sealed     []byte     `json:"sealed"` // the master key
}

func (d derivation) authentic() []byte {
	b, err := json.Marshal(d)
	if err != nil {
		panic("a struct of numbers and bytes does not marshal: " + err.Error())
	}
	return append([]byte(magic), b...)
}

// sealHeader is the beginning of a vault file.
func sealHeader(k keys) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(k.kek)
	if err != nil {
		return nil, err
	}
	h := header{Derivation: k.derivation, Nonce: make([]byte, aead.NonceSize())}
	rand.Read(h.Nonce)
	h.Sealed = aead.Seal(nil, h.Nonce, k.master, k.derivation.authentic())
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	return append([]byte(magic), append(text, '\n')...), nil
}

// keys are what a vault file is sealed with.
type keys struct {
	derivation derivation
	kek        []byte // from the passphrase or key file; seals the master key
	master     []byte // seals everything else
}

// newKeys has a new master key.
func newKeys(key Key) (k keys, err error) {
	k.derivation = newDerivation(key)
	if k.kek, err = k.derivation.key(key); err != nil {
		return keys{}, err
	}
	k.master = make([]byte, keySize)
	rand.Read(k.master)
	return k, nil
}

// openHeader returns the keys and what follows the header.
func openHeader(file []byte, key Key) (k keys, rest []byte, err error) {
	text, ok := bytes.CutPrefix(file, []byte(magic))
	if !ok && bytes.HasPrefix(file, []byte(magicName)) {
		return keys{}, nil, ErrVersion
	}
	if !ok {
		return keys{}, nil, fmt.Errorf("%w: not a vault", ErrCorrupt)
	}
	end := bytes.IndexByte(text[:min(len(text), maxHeader)], '\n')
	if end < 0 {
		return keys{}, nil, fmt.Errorf("%w: the header has no end", ErrCorrupt)
	}
	var h header
	if err := json.Unmarshal(text[:end], &h); err != nil {
		return keys{}, nil, fmt.Errorf("%w: the header is unreadable", ErrCorrupt)
	}
	k.derivation = h.Derivation
	k.kek, err = h.Derivation.key(key)
	if err != nil {
		return keys{}, nil, err
	}
	aead, err := chacha20poly1305.NewX(k.kek)
	if err != nil {
		return keys{}, nil, err
	}
	if len(h.Nonce) != aead.NonceSize() {
		return keys{}, nil, fmt.Errorf("%w: the header is unreadable", ErrCorrupt)
	}
	k.master, err = aead.Open(nil, h.Nonce, h.Sealed, h.Derivation.authentic())
	if err != nil || len(k.master) != keySize {
		return keys{}, nil, ErrWrongKey
	}
	return k, text[end+1:], nil
}

// errTorn says that a file ends within a frame.
var errTorn = errors.New("the last transaction was not written completely")

// frameHead is the size of what precedes the nonce of a frame: its length, and a checksum of the length and the frame's
// number. Without that a damaged length would make all that follows look like the one frame that a crash cut off.
const frameHead = 8

var checksums = crc32.MakeTable(crc32.Castagnoli)

func headSum(number uint64, size []byte) uint32 {
	return crc32.Checksum(append(frameNumber(number), size...), checksums)
}

// sealFrame is one transaction: its length, the checksum of that, its nonce, its records.
func sealFrame(aead cipher.AEAD, number uint64, changes map[string][]byte) ([]byte, error) {
	plaintext := encodeChanges(changes)
	if len(plaintext) > MaxTransaction {
		return nil, fmt.Errorf("a transaction of %d bytes is over the limit of %d", len(plaintext), MaxTransaction)
	}
	size := aead.NonceSize() + len(plaintext) + aead.Overhead()
	out := binary.BigEndian.AppendUint32(make([]byte, 0, frameHead+size), uint32(size))
	out = binary.BigEndian.AppendUint32(out, headSum(number, out))
	nonce := out[frameHead : frameHead+aead.NonceSize()]
	rand.Read(nonce)
	return aead.Seal(out[:frameHead+aead.NonceSize()], nonce, plaintext, frameNumber(number)), nil
}

// openFrame reads the first frame of b and returns what follows it. The error is io.EOF at the end,
// errTorn where a crash may have cut, which only the last frame can show, and ErrCorrupt else.
func openFrame(aead cipher.AEAD, number uint64, b []byte) (changes map[string][]byte, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, io.EOF
	}
	if len(b) < frameHead {
		return nil, nil, errTorn
	}
	size, body := int64(binary.BigEndian.Uint32(b)), b[frameHead:]
	switch {
	case binary.BigEndian.Uint32(b[4:]) != headSum(number, b[:4]) && blank(body):
		return nil, nil, errTorn // no frame is blank: nothing but a part of its head was written
	case binary.BigEndian.Uint32(b[4:]) != headSum(number, b[:4]):
		return nil, nil, fmt.Errorf("%w: the length of transaction %d was changed", ErrCorrupt, number)
	case size < int64(aead.NonceSize()) || size > MaxTransaction+int64(aead.NonceSize()+aead.Overhead()):
		return nil, nil, fmt.Errorf("%w: transaction %d has an impossible length", ErrCorrupt, number)
	case size > int64(len(body)):
		return nil, nil, errTorn
	}
	body, rest = body[:size], body[size:]
	plaintext, err := aead.Open(nil, body[:aead.NonceSize()], body[aead.NonceSize():], frameNumber(number))
	if err == nil {
		changes, err = decodeChanges(plaintext)
	}
	switch {
	case err == nil:
		return changes, rest, nil
	case blank(rest) && hasHole(body):
		// A crash may leave a file longer than what was written to it: nobody was told that this
		// transaction is done, so it may go.
		return nil, nil, errTorn
	}
	return nil, nil, fmt.Errorf("%w: transaction %d was changed", ErrCorrupt, number)
}

// hasHole says whether a part of a frame may never have been written: then it is zero there, or at its end. Bytes that
// are sealed have no such run.
func hasHole(body []byte) bool {
	return body[len(body)-1] == 0 || bytes.Contains(body, make([]byte, 16))
}

func blank(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func frameNumber(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// encodeChanges writes keys with their values; a nil value means that the key goes.
func encodeChanges(changes map[string][]byte) []byte {
	var out []byte
	for key, value := range changes {
		out = binary.AppendUvarint(out, uint64(len(key)))
		out = append(out, key...)
		if value == nil {
			out = append(out, 0)
			continue
		}
		out = binary.AppendUvarint(out, uint64(len(value))+1)
		out = append(out, value...)
	}
	return out
}

func decodeChanges(b []byte) (map[string][]byte, error) {
	changes := map[string][]byte{}
	for len(b) > 0 {
		key, rest, ok := cut(b, 0)
		if !ok {
			return nil, ErrCorrupt
		}
		value, rest, ok := cut(rest, 1)
		if !ok {
			return nil, ErrCorrupt
		}
		changes[string(key)], b = value, rest
	}
	return changes, nil
}

// cut takes a length, which has bias added to it, and as many bytes; a length of zero with a bias is nil.
func cut(b []byte, bias uint64) (value, rest []byte, ok bool) {
	size, n := binary.Uvarint(b)
	if n <= 0 {
		return nil, nil, false
	}
	if b = b[n:]; size < bias {
		return nil, b, true
	}
	if size -= bias; size > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:size:size], b[size:], true
}
