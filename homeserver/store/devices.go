package store

import (
	"database/sql"

	"github.com/uptrace/bun"

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

// loggedOut is true of a row of a device that has no tokens: it is logged out, and to be deleted.
func loggedOut(table string) string {
	return `NOT EXISTS (SELECT 1 FROM tokens t WHERE t.user_id = ` + table + `.user_id AND t.device_id = ` + table + `.device_id)`
}

// LoggedOut lists those of a user's devices that have no tokens.
func (s Devices) LoggedOut(user id.UserID) ([]id.DeviceID, error) {
	return s.named(`SELECT device_id FROM devices WHERE user_id = ? AND `+loggedOut("devices")+` ORDER BY device_id`, string(user))
}

// DeleteLoggedOut removes those of some devices that have no tokens, and returns which it has removed. What hangs on them is
// left.
func (s Devices) DeleteLoggedOut(user id.UserID, devices []id.DeviceID) ([]id.DeviceID, error) {
	return s.named(`DELETE FROM devices WHERE user_id = ? AND device_id IN (?) AND `+loggedOut("devices")+` RETURNING device_id`, string(user), bun.In(devices))
}

func (s Devices) named(text string, args ...any) ([]id.DeviceID, error) {
	var out []id.DeviceID
	err := s.tx.query(func(rows *sql.Rows) error {
		var d id.DeviceID
		if err := rows.Scan(&d); err != nil {
			return err
		}
		out = append(out, d)
		return nil
	}, text, args...)
	return out, err
}

// Empty deletes messages and keys of those of some devices that have no tokens, at most limit, and returns how many.
func (s Devices) Empty(user id.UserID, devices []id.DeviceID, limit int) (all int64, err error) {
	for _, table := range []string{"to_device", "one_time_keys", "claimed_keys"} {
		n, err := s.tx.exec(deleteSome(s.tx.db.postgres, table, `user_id = ? AND device_id IN (?) AND `+loggedOut(table)), string(user), bun.In(devices), int64(limit)-all)
		if err == nil && table == "claimed_keys" {
			err = s.tx.Stored.add(user, StoredClaims, -int(n))
		}
		if all += n; err != nil || all == int64(limit) {
			return all, err
		}
	}
	return all, nil
}

// Delete removes a device; false if there is no such device. Its tokens are removed by Tokens.DeleteDevice.
func (s Devices) Delete(user id.UserID, device id.DeviceID) (bool, error) {
	n, err := s.tx.exec(`DELETE FROM devices WHERE user_id = ? AND device_id = ?`, string(user), string(device))
	return n > 0, err
}
