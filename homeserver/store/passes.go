package store

import (
	"github.com/securecomm/securecomm/homeserver/id"
)

// Pass is a token that is good for one purpose and a short time.
type Pass struct {
	Hash      []byte
	Purpose   string
	User      id.UserID
	ExpiresAt int64
}

// RegistrationToken lets people register.
type RegistrationToken struct {
	Hash      []byte
	Uses      int64 // -1: without limit
	Admin     bool
	Bootstrap bool
	ExpiresAt int64 // 0: never
}

// Passes are tokens for a single purpose.
type Passes struct{ tx *Tx }

// moreExpired is how many tokens that have expired go when one comes: more than that, so that they do not pile up.
const moreExpired = 20

// Insert adds a pass and forgets some of those that have expired.
func (s Passes) Insert(p Pass, now int64) error {
	if _, err := s.tx.exec(deleteSome(s.tx.db.postgres, "passes", `expires_at < ?`), now, moreExpired); err != nil {
		return err
	}
	_, err := s.tx.exec(`INSERT INTO passes (hash, purpose, user_id, expires_at) VALUES (?, ?, ?, ?)`, p.Hash, p.Purpose, string(p.User), p.ExpiresAt)
	return err
}

// Get reads a pass; false if there is none that is valid.
func (s Passes) Get(hash []byte, purpose string, now int64) (Pass, bool, error) {
	p := Pass{Hash: hash, Purpose: purpose}
	ok, err := s.tx.row([]any{&p.User, &p.ExpiresAt}, `SELECT user_id, expires_at FROM passes WHERE hash = ? AND purpose = ? AND expires_at >= ?`, hash, purpose, now)
	return p, ok, err
}

// Delete removes a pass.
func (s Passes) Delete(hash []byte) error {
	_, err := s.tx.exec(`DELETE FROM passes WHERE hash = ?`, hash)
	return err
}

// DeleteUser removes all passes of a user.
func (s Passes) DeleteUser(user id.UserID) error {
	_, err := s.tx.exec(`DELETE FROM passes WHERE user_id = ?`, string(user))
	return err
}

// InsertRegistration adds a token for registrations and forgets some of those that have expired.
func (s Passes) InsertRegistration(t RegistrationToken, now int64) error {
	if _, err := s.tx.exec(deleteSome(s.tx.db.postgres, "registration_tokens", `expires_at > 0 AND expires_at < ?`), now, moreExpired); err != nil {
		return err
	}
	_, err := s.tx.exec(`INSERT INTO registration_tokens (hash, uses, admin, bootstrap, expires_at) VALUES (?, ?, ?, ?, ?)`,
		t.Hash, t.Uses, t.Admin, t.Bootstrap, t.ExpiresAt)
	return err
}

// Registration reads a token for registrations; false if there is none that is valid.
func (s Passes) Registration(hash []byte, now int64) (RegistrationToken, bool, error) {
	t := RegistrationToken{Hash: hash}
	ok, err := s.tx.row([]any{&t.Uses, &t.Admin, &t.Bootstrap, &t.ExpiresAt},
		`SELECT uses, admin, bootstrap, expires_at FROM registration_tokens WHERE hash = ? AND uses <> 0 AND (expires_at = 0 OR expires_at >= ?)`, hash, now)
	return t, ok, err
}

// AnyRegistration says whether there is a valid token for registrations.
func (s Passes) AnyRegistration(now int64) (bool, error) {
	var one int
	return s.tx.row([]any{&one}, `SELECT 1 FROM registration_tokens WHERE uses <> 0 AND (expires_at = 0 OR expires_at >= ?) LIMIT 1`, now)
}

// UseRegistration uses a token up by one registration.
func (s Passes) UseRegistration(hash []byte) error {
	if _, err := s.tx.exec(`UPDATE registration_tokens SET uses = uses - 1 WHERE hash = ? AND uses > 0`, hash); err != nil {
		return err
	}
	_, err := s.tx.exec(`DELETE FROM registration_tokens WHERE hash = ? AND uses = 0`, hash)
	return err
}

// DeleteBootstrap removes the tokens that were minted for the first administrator.
func (s Passes) DeleteBootstrap() error {
	_, err := s.tx.exec(`DELETE FROM registration_tokens WHERE bootstrap`)
	return err
}
