package account

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/securecomm/securecomm/homeserver/store"
)

// Prefixes tell what a leaked token is.
const (
	accessPrefix       = "sct_"
	refreshPrefix      = "scr_"
	loginPrefix        = "scl_"
	openIDPrefix       = "sco_"
	registrationPrefix = "screg_"
)

// newToken makes a token of 256 random bits.
func newToken(prefix string) string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// nextToken makes a token that follows from a refresh token of this server: who does not know its secret cannot tell it
// from a random one.
func nextToken(secret []byte, prefix, refresh string) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("refreshed\x00" + prefix + "\x00" + refresh))
	return prefix + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// hashToken is the form in which tokens are stored. They have enough entropy for a plain hash.
func hashToken(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// ticketLife is how long a ticket is good for.
const ticketLife = 15 * time.Minute

// signTicket makes an identifier that this server, and any of its replicas, recognises without having
// stored it: a time of expiry and a nonce, signed together with what the ticket is for.
func (s *Service) signTicket(ctx context.Context, purpose string) (string, error) {
	secret, err := s.loadSecret(ctx)
	if err != nil {
		return "", err
	}
	ticket := make([]byte, 16, 16+sha256.Size)
	_, _ = rand.Read(ticket[8:]) // never fails
	binary.BigEndian.PutUint64(ticket, uint64(time.Now().Add(ticketLife).UnixMilli()))
	return base64.RawURLEncoding.EncodeToString(sealTicket(secret, purpose, ticket)), nil
}

func sealTicket(secret []byte, purpose string, ticket []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write(ticket[:16])
	mac.Write([]byte(purpose))
	return mac.Sum(ticket[:16:16])
}

// checkTicket says whether signTicket made a ticket for a purpose, not too long ago.
func (s *Service) checkTicket(ctx context.Context, purpose, text string) (bool, error) {
	secret, err := s.loadSecret(ctx)
	if err != nil {
		return false, err
	}
	ticket, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(ticket) != 16+sha256.Size {
		return false, nil
	}
	if !hmac.Equal(ticket, sealTicket(secret, purpose, ticket)) {
		return false, nil
	}
	return int64(binary.BigEndian.Uint64(ticket)) >= time.Now().UnixMilli(), nil
}

// loadSecret reads the key that tickets are signed with; the first who needs it makes it.
func (s *Service) loadSecret(ctx context.Context) ([]byte, error) {
	s.secretMu.Lock()
	defer s.secretMu.Unlock()
	if s.secret != nil {
		return s.secret, nil
	}
	var fresh [32]byte
	_, _ = rand.Read(fresh[:]) // never fails
	var kept string
	err := s.DB.Update(ctx, func(tx *store.Tx) (err error) {
		kept, err = tx.FactOnce("account_ticket_key", hex.EncodeToString(fresh[:]))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load the key for tickets: %w", err)
	}
	secret, err := hex.DecodeString(kept)
	if err != nil {
		return nil, fmt.Errorf("load the key for tickets: %w", err)
	}
	s.secret = secret
	return secret, nil
}
