package account

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
)

// maxRemembered is how large the parameters may be that a session remembers. Of larger ones it knows only whether they
// are the same.
const maxRemembered = 4 << 10

// begun is what a session of interactive authentication remembers of the request by which it was begun.
type begun struct {
	digest []byte
	params json.RawMessage // nil: too large
}

// empty says whether the request had no parameters.
func (b *begun) empty() bool { return bytes.Equal(b.digest, digestOf(nil)) }

// beginSession makes a session. Nothing is stored, since anyone may begin one: what the session remembers stands in its
// ID, sealed, so that every replica can read it and nobody else.
func (s *Service) beginSession(ctx context.Context, purpose string, params json.RawMessage) (string, error) {
	sealer, err := s.sealer(ctx)
	if err != nil {
		return "", err
	}
	plain := binary.BigEndian.AppendUint64(nil, uint64(time.Now().Add(ticketLife).UnixMilli()))
	plain = append(plain, digestOf(params)...)
	if len(params) <= maxRemembered {
		plain = append(append(plain, 1), params...)
	}
	nonce := make([]byte, sealer.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	return base64.RawURLEncoding.EncodeToString(sealer.Seal(nonce, nonce, plain, []byte(purpose))), nil
}

// recall reads what beginSession made for a purpose; false if it did not, or too long ago.
func (s *Service) recall(ctx context.Context, purpose, session string) (begun, bool, error) {
	sealer, err := s.sealer(ctx)
	if err != nil {
		return begun{}, false, err
	}
	sealed, err := base64.RawURLEncoding.DecodeString(session)
	if err != nil || len(sealed) < sealer.NonceSize() {
		return begun{}, false, nil
	}
	nonce, sealed := sealed[:sealer.NonceSize()], sealed[sealer.NonceSize():]
	plain, err := sealer.Open(nil, nonce, sealed, []byte(purpose))
	const head = 8 + sha256.Size
	if err != nil || len(plain) < head || int64(binary.BigEndian.Uint64(plain)) < time.Now().UnixMilli() {
		return begun{}, false, nil
	}
	b := begun{digest: plain[8:head]}
	if len(plain) > head {
		b.params = plain[head+1:]
	}
	return b, true, nil
}

func (s *Service) sealer(ctx context.Context) (cipher.AEAD, error) {
	secret, err := s.loadSecret(ctx)
	if err != nil {
		return nil, err
	}
	key := sha256.Sum256(append([]byte("sessions of interactive authentication\x00"), secret...))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("seal a session: %w", err)
	}
	return cipher.NewGCM(block)
}

// digestOf tells parameters apart, in whatever way they are written.
func digestOf(params json.RawMessage) []byte {
	if isEmpty(params) {
		params = nil
	} else if canonical, err := canonicaljson.CanonicalizeLenient(params); err == nil {
		params = canonical
	}
	sum := sha256.Sum256(params)
	return sum[:]
}

// isEmpty says whether there are no parameters.
func isEmpty(params json.RawMessage) bool { return len(params) == 0 || string(params) == "{}" }
