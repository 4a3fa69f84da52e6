package wire

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// ErrBase64 says that a string is not base64.
var ErrBase64 = errors.New("not base64")

// Base64 is unpadded standard base64 (Appendices, "Unpadded Base64").
func Base64(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

// DecodeBase64 reads standard base64, padded or not; some old clients pad.
func DecodeBase64(s string) ([]byte, error) {
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		// The text may be a secret, so the decoder's error, which quotes nothing but offsets, is dropped.
		return nil, ErrBase64
	}
	return b, nil
}

// DecodeKey reads a base64 key of exactly 32 bytes.
func DecodeKey(s string) ([]byte, error) {
	b, err := DecodeBase64(s)
	if err != nil {
		return nil, err
	}
	if len(b) != KeySize {
		return nil, fmt.Errorf("a key has %d bytes, not %d", KeySize, len(b))
	}
	return b, nil
}
