package store

import (
	"database/sql"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Device is one login of a user.
type Device struct {
	User        id.UserID
	ID          id.DeviceID
	DisplayName string
	CreatedAt   int64
	SeenAt      int64 // 0: not yet
	SeenAddress string
	SeenAgent   string
}

// Devices are the devices of local users.
type Devices struct{ tx *Tx }

const deviceColumns = `user_id, device_id, display_name, created_at, seen_at, seen_address, seen_agent`

func (d *Device) fields() []any {
	return []any{&d.User, &d.ID, &d.DisplayName, &d.CreatedAt, &d.SeenAt, &d.SeenAddress, &d.SeenAgent}
}

// Insert adds a device; false if the user already has one of that ID.
func (s Devices) Insert(d Device) (bool, error) {
	n, err := s.tx.exec(`INSERT INTO devices (user_id, device_id, display_name, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		string(d.User), string(d.ID), d.DisplayName, d.CreatedAt)
	return n == 1, err
}

// Get reads a device; false if there is none.
func (s Devices) Get(user id.UserID, device id.DeviceID) (Device, bool, error) {
	var d Device
	ok, err := s.tx.row(d.fields(), `SELECT `+deviceColumns+` FROM devices WHERE user_id = ? AND device_id = ?`, string(user), string(device))
	return d, ok, err
}

// First is one of the devices of a user; false if there is none.
func (s Devices) First(user id.UserID) (device id.DeviceID, ok bool, err error) {
	ok, err = s.tx.row([]any{&device}, `SELECT device_id FROM devices WHERE user_id = ? ORDER BY device_id LIMIT 1`, string(user))
	return device, ok, err
}

// ByUser lists the devices of a user.
func (s Devices) ByUser(user id.UserID) ([]Device, error) {
	var out []Device
	err := s.tx.query(func(rows *sql.Rows) error {
		var d Device
		if err := rows.Scan(d.fields()...); err != nil {
			return err
		}
		out = append(out, d)
		return nil
	}, `SELECT `+deviceColumns+` FROM devices WHERE user_id = ? ORDER BY created_at, device_id`, string(user))
	return out, err
}

// Count is how many devices a user has.
func (s Devices) Count(user id.UserID) (int, error) {
	var n int
	_, err := s.tx.row([]any{&n}, `SELECT count(*) FROM devices WHERE user_id = ?`, string(user))
	return n, err
}

// Rename sets the display name of a device; false if there is no such device.
func (s Devices) Rename(user id.UserID, device id.DeviceID, name string) (bool, error) {
	n, err := s.tx.exec(`UPDATE devices SET display_name = ? WHERE user_id = ? AND device_id = ?`, name, string(user), string(device))
	return n > 0, err
}

// SetSeen notes when and from where a device was last used.
func (s Devices) SetSeen(d Device) error {
	_, err := s.tx.exec(`UPDATE devices SET seen_at = ?, seen_address = ?, seen_agent = ? WHERE user_id = ? AND device_id = ?`,
		d.SeenAt, d.SeenAddress, d.SeenAgent, string(d.User), string(d.ID))
	return err
}

// Delete removes a device; false if there is no such device. Its tokens are removed by Tokens.DeleteDevice.
func (s Devices) Delete(user id.UserID, device id.DeviceID) (bool, error) {
	n, err := s.tx.exec(`DELETE FROM devices WHERE user_id = ? AND device_id = ?`, string(user), string(device))
	return n > 0, err
}
