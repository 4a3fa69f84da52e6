package store

import (
	"database/sql"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Token is an access token with the refresh token that it came with. Tokens are known as hashes only.
type Token struct {
	Access    []byte
	Refresh   []byte // nil: cannot be refreshed
	Replaces  []byte // the refresh token of the row that this one takes the place of once it is used
	User      id.UserID
	Device    id.DeviceID
	ExpiresAt int64 // of the access token; 0: never
}

// Session is what is to be known about an access token's user.
type Session struct {
	Token
	Admin       bool
	Deactivated bool
	SeenAt      int64
}

// Tokens are the access and refresh tokens of local users.
type Tokens struct{ tx *Tx }

// Insert adds a token.
func (s Tokens) Insert(t Token) error {
	_, err := s.tx.exec(`INSERT INTO tokens (access_hash, refresh_hash, replaces, user_id, device_id, expires_at) VALUES (?, ?, ?, ?, ?, ?)`,
		t.Access, orNull(t.Refresh), orNull(t.Replaces), string(t.User), string(t.Device), t.ExpiresAt)
	return err
}

func orNull(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}

// Session finds out whose an access token is; false if nobody's.
func (s Tokens) Session(access []byte) (Session, bool, error) {
	var t Session
	ok, err := s.tx.row([]any{&t.Access, &t.Refresh, &t.Replaces, &t.User, &t.Device, &t.ExpiresAt, &t.Admin, &t.Deactivated, &t.SeenAt},
		`SELECT t.access_hash, t.refresh_hash, t.replaces, t.user_id, t.device_id, t.expires_at, u.admin, u.deactivated, d.seen_at
		FROM tokens t JOIN users u ON u.user_id = t.user_id JOIN devices d ON d.user_id = t.user_id AND d.device_id = t.device_id
		WHERE t.access_hash = ?`, access)
	return t, ok, err
}

// ByRefresh finds the token that a refresh token belongs to; false if there is none.
func (s Tokens) ByRefresh(refresh []byte) (Token, bool, error) {
	var t Token
	ok, err := s.tx.row([]any{&t.Access, &t.Refresh, &t.Replaces, &t.User, &t.Device, &t.ExpiresAt},
		`SELECT access_hash, refresh_hash, replaces, user_id, device_id, expires_at FROM tokens WHERE refresh_hash = ?`, refresh)
	return t, ok, err
}

// Confirm notes that a token has been used: what it replaces is removed and returned, as access hashes.
func (s Tokens) Confirm(t Token) ([][]byte, error) {
	if t.Replaces == nil {
		return nil, nil
	}
	if _, err := s.tx.exec(`UPDATE tokens SET replaces = NULL WHERE access_hash = ?`, t.Access); err != nil {
		return nil, err
	}
	return s.deleted(`DELETE FROM tokens WHERE refresh_hash = ? OR replaces = ? RETURNING access_hash`, t.Replaces, t.Replaces)
}

// SetExpiry says until when an access token is valid.
func (s Tokens) SetExpiry(access []byte, expiresAt int64) error {
	_, err := s.tx.exec(`UPDATE tokens SET expires_at = ? WHERE access_hash = ?`, expiresAt, access)
	return err
}

// DeleteDevice removes all tokens of a device and returns their access hashes.
func (s Tokens) DeleteDevice(user id.UserID, device id.DeviceID) ([][]byte, error) {
	return s.deleted(`DELETE FROM tokens WHERE user_id = ? AND device_id = ? RETURNING access_hash`, string(user), string(device))
}

// DeleteDevices removes all tokens of some devices and returns their access hashes.
func (s Tokens) DeleteDevices(user id.UserID, devices []id.DeviceID) ([][]byte, error) {
	if len(devices) == 0 {
		return nil, nil
	}
	return s.deleted(`DELETE FROM tokens WHERE user_id = ? AND device_id IN (?) RETURNING access_hash`, string(user), bun.In(devices))
}

// DeleteOthers removes all tokens of a user but those of one device, if it is not empty, and returns their access hashes.
func (s Tokens) DeleteOthers(user id.UserID, but id.DeviceID) ([][]byte, error) {
	return s.deleted(`DELETE FROM tokens WHERE user_id = ? AND device_id <> ? RETURNING access_hash`, string(user), string(but))
}

// Abandoned lists devices of which all access tokens have expired before a time, at most limit. It looks at all tokens:
// use it in a View.
func (s Tokens) Abandoned(before int64, limit int) ([]Device, error) {
	var out []Device
	err := s.tx.query(func(rows *sql.Rows) error {
		var d Device
		if err := rows.Scan(&d.User, &d.ID); err != nil {
			return err
		}
		out = append(out, d)
		return nil
	}, `SELECT user_id, device_id FROM tokens GROUP BY user_id, device_id HAVING min(expires_at) > 0 AND max(expires_at) < ? LIMIT ?`, before, limit)
	return out, err
}

// Lives says whether a device has an access token that has not expired before a time.
func (s Tokens) Lives(user id.UserID, device id.DeviceID, before int64) (bool, error) {
	var one int
	return s.tx.row([]any{&one}, `SELECT 1 FROM tokens WHERE user_id = ? AND device_id = ? AND (expires_at = 0 OR expires_at >= ?) LIMIT 1`,
		string(user), string(device), before)
}

func (s Tokens) deleted(text string, args ...any) ([][]byte, error) {
	var out [][]byte
	err := s.tx.query(func(rows *sql.Rows) error {
		var hash []byte
		if err := rows.Scan(&hash); err != nil {
			return err
		}
		out = append(out, hash)
		return nil
	}, text, args...)
	return out, err
}
