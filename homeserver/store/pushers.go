package store

import (
	"database/sql"
	"encoding/json"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Pusher is where notifications of a user go to.
type Pusher struct {
	User    id.UserID
	AppID   string
	PushKey string
	Device  id.DeviceID // with which it goes
	Content json.RawMessage
}

// Pushers are where notifications go to.
type Pushers struct{ tx *Tx }

// Set adds or replaces a pusher. There must be such a device.
func (s Pushers) Set(p Pusher, at time.Time) error {
	_, err := s.tx.exec(`INSERT INTO pushers (user_id, app_id, push_key, device_id, content, created_at) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (user_id, app_id, push_key) DO UPDATE SET device_id = excluded.device_id, content = excluded.content`,
		string(p.User), p.AppID, p.PushKey, string(p.Device), string(p.Content), at.UnixMilli())
	return err
}

// Delete removes a pusher, if there is one.
func (s Pushers) Delete(user id.UserID, appID, pushKey string) error {
	_, err := s.tx.exec(`DELETE FROM pushers WHERE user_id = ? AND app_id = ? AND push_key = ?`, string(user), appID, pushKey)
	return err
}

// DeleteOthers removes the pushers that users other than the one given have for an app.
func (s Pushers) DeleteOthers(user id.UserID, appID, pushKey string) error {
	_, err := s.tx.exec(`DELETE FROM pushers WHERE user_id <> ? AND app_id = ? AND push_key = ?`, string(user), appID, pushKey)
	return err
}

// ByUser lists the pushers of a user.
func (s Pushers) ByUser(user id.UserID) ([]Pusher, error) {
	var out []Pusher
	err := s.tx.query(func(rows *sql.Rows) error {
		p := Pusher{User: user}
		var content string
		if err := rows.Scan(&p.AppID, &p.PushKey, &p.Device, &content); err != nil {
			return err
		}
		p.Content = json.RawMessage(content)
		out = append(out, p)
		return nil
	}, `SELECT app_id, push_key, device_id, content FROM pushers WHERE user_id = ? ORDER BY created_at, app_id, push_key`, string(user))
	return out, err
}
