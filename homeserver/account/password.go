package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"
)

// Argon2id with the parameters that OWASP recommends for little memory (19 MiB, two passes).
const (
	argonMemory  = 19456 // KiB
	argonTime    = 2
	argonThreads = 1
	argonSalt    = 16
	argonKey     = 32
)

// maxPassword is how many bytes a password may have.
const maxPassword = 512

var errBadHash = errors.New("a stored password hash is damaged")

// spellings are the forms in which a password may have been hashed: keyboards and systems write the same letters with one
// code point or with several. The first is the one that is hashed today; passwords set earlier were hashed as they were
// typed.
func spellings(password string) []string {
	out := []string{norm.NFC.String(password)}
	for _, form := range []string{password, norm.NFD.String(password)} {
		if !slices.Contains(out, form) {
			out = append(out, form)
		}
	}
	return out
}

// checkPolicy says whether a password may be set.
func (s *Service) checkPolicy(password string) error {
	switch {
	case len(password) > maxPassword || len(spellings(password)[0]) > maxPassword:
		return fmt.Errorf("%w: it has more than %d bytes", ErrWeakPassword, maxPassword)
	case utf8.RuneCountInString(password) < max(s.MinPassword, 1):
		return fmt.Errorf("%w: it needs at least %d characters", ErrWeakPassword, max(s.MinPassword, 1))
	}
	return nil
}

// argon computes the hash, at most as many at once as there are processors.
func (s *Service) argon(ctx context.Context, password string, salt []byte, memory, time uint32, threads uint8, size uint32) ([]byte, error) {
	select {
	case s.hashing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.hashing }()
	return argon2.IDKey([]byte(password), salt, time, memory, threads, size), nil
}

// hashPassword makes the PHC string of a password.
func (s *Service) hashPassword(ctx context.Context, password string) (string, error) {
	var salt [argonSalt]byte
	_, _ = rand.Read(salt[:]) // never fails
	key, err := s.argon(ctx, spellings(password)[0], salt[:], argonMemory, argonTime, argonThreads, argonKey)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads,
		base64.RawStdEncoding.EncodeToString(salt[:]), base64.RawStdEncoding.EncodeToString(key)), nil
}

// checkPassword compares a password with a PHC string. An empty string matches nothing, but takes as long.
func (s *Service) checkPassword(ctx context.Context, phc, password string) (bool, error) {
	if len(password) > maxPassword {
		return false, nil
	}
	if phc == "" {
		_, err := s.argon(ctx, password, make([]byte, argonSalt), argonMemory, argonTime, argonThreads, argonKey)
		return false, err
	}
	parts := strings.Split(phc, "$")
	var version int
	var memory, time uint32
	var threads uint8
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false, errBadHash
	}
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return false, errBadHash
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &time, &threads); err != nil || time == 0 || threads == 0 {
		return false, errBadHash
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil {
		return false, errBadHash
	}
	want, err := base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil || len(want) == 0 {
		return false, errBadHash
	}
	got, err := s.argon(ctx, password, salt, memory, time, threads, uint32(len(want)))
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}
