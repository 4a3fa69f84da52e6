package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrMalformed is wrapped by every refusal to read a message.
var ErrMalformed = errors.New("malformed message")

// AppendInt appends an integer field.
func AppendInt(dst []byte, tag byte, value uint64) []byte {
	return binary.AppendUvarint(append(dst, tag), value)
}

// AppendBytes appends a string field.
func AppendBytes(dst []byte, tag byte, value []byte) []byte {
	dst = binary.AppendUvarint(append(dst, tag), uint64(len(value)))
	return append(dst, value...)
}

// Field is one field of a message: Int for tags whose low three bits are 0, Bytes for those where they are 2.
type Field struct {
	Tag   uint64
	Int   uint64
	Bytes []byte
}

// Fields reads all fields of a payload and calls visit with each; a field that visit does not know it
// ignores. Bytes are slices of the payload.
func Fields(payload []byte, visit func(Field) error) error {
	for len(payload) > 0 {
		var f Field
		var err error
		if f.Tag, payload, err = uvarint(payload); err != nil {
			return err
		}
		if f.Int, payload, err = uvarint(payload); err != nil {
			return err
		}
		switch f.Tag & 7 {
		case 0:
		case 2:
			if f.Int > uint64(len(payload)) {
				return fmt.Errorf("%w: a field is longer than the message", ErrMalformed)
			}
			f.Bytes, payload, f.Int = payload[:f.Int], payload[f.Int:], 0
		default:
			return fmt.Errorf("%w: a field of an unknown type", ErrMalformed)
		}
		if err := visit(f); err != nil {
			return err
		}
	}
	return nil
}

func uvarint(b []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, fmt.Errorf("%w: a broken integer", ErrMalformed)
	}
	return v, b[n:], nil
}
