package store

import (
	"github.com/securecomm/securecomm/homeserver/id"
)

// User is an account of this server.
type User struct {
	ID           id.UserID
	PasswordHash string // empty: no password is right
	Admin        bool
	Deactivated  bool
	Erased       bool
	CreatedAt    int64
}

// Users are the accounts of this server.
type Users struct{ tx *Tx }

// Insert adds a user; false if the name is taken.
func (s Users) Insert(u User) (bool, error) {
	n, err := s.tx.exec(`INSERT INTO users (user_id, password_hash, admin, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		string(u.ID), u.PasswordHash, u.Admin, u.CreatedAt)
	return n == 1, err
}

// Get reads a user; false if there is none.
func (s Users) Get(user id.UserID) (User, bool, error) {
	u := User{ID: user}
	ok, err := s.tx.row([]any{&u.PasswordHash, &u.Admin, &u.Deactivated, &u.Erased, &u.CreatedAt},
		`SELECT password_hash, admin, deactivated, erased, created_at FROM users WHERE user_id = ?`, string(user))
	return u, ok, err
}

// Active tells which of some users there are, and not deactivated.
func (s Users) Active(users []id.UserID) (map[id.UserID]bool, error) {
	return s.tx.DeviceLists.subset(users, `SELECT user_id FROM users WHERE user_id IN (?) AND NOT deactivated`)
}

// Count counts the accounts that are not deactivated.
func (s Users) Count() (int, error) {
	var n int
	_, err := s.tx.row([]any{&n}, `SELECT count(*) FROM users WHERE NOT deactivated`)
	return n, err
}

// AnyAdmin says whether there is an administrator whose account is in use.
func (s Users) AnyAdmin() (bool, error) {
	var one int
	return s.tx.row([]any{&one}, `SELECT 1 FROM users WHERE admin AND NOT deactivated LIMIT 1`)
}

// SetPassword replaces the hash of a user's password.
func (s Users) SetPassword(user id.UserID, hash string) error {
	_, err := s.tx.exec(`UPDATE users SET password_hash = ? WHERE user_id = ?`, hash, string(user))
	return err
}

// SetAdmin makes a user an administrator or not.
func (s Users) SetAdmin(user id.UserID, admin bool) error {
	_, err := s.tx.exec(`UPDATE users SET admin = ? WHERE user_id = ?`, admin, string(user))
	return err
}

// Deactivate marks an account as closed for ever. Who knows the password can still be told so, unless it is erased.
func (s Users) Deactivate(user id.UserID, erased bool) error {
	_, err := s.tx.exec(`UPDATE users SET deactivated = TRUE, erased = ?, password_hash = CASE WHEN ? THEN '' ELSE password_hash END WHERE user_id = ?`, erased, erased, string(user))
	return err
}
