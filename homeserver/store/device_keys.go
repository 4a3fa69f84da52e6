package store

import (
	"database/sql"
	"slices"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
)

// IdentityKeys are the keys that a device is known by.
type IdentityKeys struct {
	User        id.UserID
	Device      id.DeviceID
	DisplayName string // in Set only of remote devices: the one of local devices is kept with them
	JSON        []byte // canonical, without "unsigned"
}

// DeviceKeys are the identity keys of devices: local ones, and remote ones that are cached (see DeviceLists).
type DeviceKeys struct{ tx *Tx }

// Get reads the identity keys of a device; nil if it has none.
func (s DeviceKeys) Get(user id.UserID, device id.DeviceID) ([]byte, error) {
	var keys []byte
	_, err := s.tx.row([]any{&keys}, `SELECT keys FROM device_keys WHERE user_id = ? AND device_id = ?`, string(user), string(device))
	return keys, err
}

// Size is how many devices of a user have identity keys, and how many bytes these have.
func (s DeviceKeys) Size(user id.UserID) (devices, size int, err error) {
	_, err = s.tx.row([]any{&devices, &size}, `SELECT count(*), coalesce(sum(octet_length(keys)), 0) FROM device_keys WHERE user_id = ?`, string(user))
	return devices, size, err
}

// DeviceSize is how many bytes a device counts as in Sizes, besides its keys: it has an ID and may have a name.
const DeviceSize = 300

// Sizes is how many bytes the identity keys and the cross-signing keys of users have. Who has none is missing.
func (s DeviceKeys) Sizes(users []id.UserID) (map[id.UserID]int, error) {
	out := make(map[id.UserID]int, len(users))
	for chunk := range slices.Chunk(users, 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var u id.UserID
			var size int
			if err := rows.Scan(&u, &size); err != nil {
				return err
			}
			out[u] += size
			return nil
		}, `SELECT user_id, sum(octet_length(keys) + ?) FROM device_keys WHERE user_id IN (?) GROUP BY user_id
			UNION ALL SELECT user_id, sum(octet_length(key)) FROM cross_signing_keys WHERE user_id IN (?) GROUP BY user_id`,
			DeviceSize, bun.In(chunk), bun.In(chunk))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ByUsers reads the identity keys of all devices of users, in order of users and devices.
func (s DeviceKeys) ByUsers(users []id.UserID) ([]IdentityKeys, error) {
	var out []IdentityKeys
	for chunk := range slices.Chunk(users, 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var k IdentityKeys
			if err := rows.Scan(&k.User, &k.Device, &k.DisplayName, &k.JSON); err != nil {
				return err
			}
			out = append(out, k)
			return nil
		}, `SELECT k.user_id, k.device_id, coalesce(d.display_name, k.display_name), k.keys
			FROM device_keys k LEFT JOIN devices d ON d.user_id = k.user_id AND d.device_id = k.device_id
			WHERE k.user_id IN (?) ORDER BY k.user_id, k.device_id`, bun.In(chunk))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Named reads the identity keys of some devices of a user. Who has none is missing.
func (s DeviceKeys) Named(user id.UserID, devices []id.DeviceID) (map[id.DeviceID][]byte, error) {
	out := make(map[id.DeviceID][]byte, len(devices))
	for chunk := range slices.Chunk(devices, 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var device id.DeviceID
			var keys []byte
			err := rows.Scan(&device, &keys)
			out[device] = keys
			return err
		}, `SELECT device_id, keys FROM device_keys WHERE user_id = ? AND device_id IN (?)`, string(user), bun.In(chunk))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Set writes the identity keys of a device.
func (s DeviceKeys) Set(k IdentityKeys) error {
	_, err := s.tx.exec(`INSERT INTO device_keys (user_id, device_id, display_name, keys) VALUES (?, ?, ?, ?)
		ON CONFLICT (user_id, device_id) DO UPDATE SET display_name = excluded.display_name, keys = excluded.keys`,
		string(k.User), string(k.Device), k.DisplayName, k.JSON)
	return err
}

// Delete removes the identity keys of a device; false if it had none.
func (s DeviceKeys) Delete(user id.UserID, device id.DeviceID) (bool, error) {
	n, err := s.tx.exec(`DELETE FROM device_keys WHERE user_id = ? AND device_id = ?`, string(user), string(device))
	return n > 0, err
}

// DeleteDevices removes the identity keys of some devices.
func (s DeviceKeys) DeleteDevices(user id.UserID, devices []id.DeviceID) error {
	_, err := s.tx.exec(`DELETE FROM device_keys WHERE user_id = ? AND device_id IN (?)`, string(user), bun.In(devices))
	return err
}

// DeleteUser removes the identity keys of all devices of a user.
func (s DeviceKeys) DeleteUser(user id.UserID) error {
	_, err := s.tx.exec(`DELETE FROM device_keys WHERE user_id = ?`, string(user))
	return err
}
