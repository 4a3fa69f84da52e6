package store

import (
	"database/sql"
	"encoding/json"
	"slices"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// ToDeviceMessage is a message that waits for a local device.
type ToDeviceMessage struct {
	User     id.UserID
	Device   id.DeviceID
	Sender   id.UserID
	Position stream.Position
	JSON     json.RawMessage // sender, type and content
}

// Waiting is a message in an inbox, without what it says.
type Waiting struct {
	Sender   id.UserID
	Position stream.Position
	Size     int
}

// ToDevice are the messages that wait for devices.
type ToDevice struct{ tx *Tx }

// Add logs messages and puts them into the inboxes of their devices, in order.
func (s ToDevice) Add(messages []ToDeviceMessage) {
	messages = slices.Clone(messages)
	for i := range messages {
		m := &messages[i]
		s.tx.Log(stream.Change{Kind: stream.ToDevice, User: m.User, Device: m.Device, Wake: []id.UserID{m.User}}, func(p stream.Position) error {
			m.Position = p
			if i < len(messages)-1 {
				return nil
			}
			return s.insert(messages) // all positions are known now
		})
	}
}

func (s ToDevice) insert(messages []ToDeviceMessage) error {
	for chunk := range slices.Chunk(messages, 50) {
		args := make([]any, 0, 5*len(chunk))
		for _, m := range chunk {
			args = append(args, string(m.User), string(m.Device), int64(m.Position), string(m.Sender), []byte(m.JSON))
		}
		if _, err := s.tx.exec(`INSERT INTO to_device (user_id, device_id, position, sender, message) VALUES `+places(len(chunk), 5), args...); err != nil {
			return err
		}
	}
	return nil
}

// Since reads the first messages for a device in from < p <= to, in order. Who gets as many as the limit
// has to go on from the last one's position: there may be more.
func (s ToDevice) Since(user id.UserID, device id.DeviceID, from, to stream.Position, limit int) ([]ToDeviceMessage, error) {
	var out []ToDeviceMessage
	err := s.tx.query(func(rows *sql.Rows) error {
		m := ToDeviceMessage{User: user, Device: device}
		if err := rows.Scan(&m.Position, (*[]byte)(&m.JSON)); err != nil {
			return err
		}
		out = append(out, m)
		return nil
	}, `SELECT position, message FROM to_device WHERE user_id = ? AND device_id = ? AND position > ? AND position <= ? ORDER BY position LIMIT ?`,
		string(user), string(device), int64(from), int64(to), limit)
	return out, err
}

// Any says whether there is a message for a device up to a position.
func (s ToDevice) Any(user id.UserID, device id.DeviceID, upto stream.Position) (bool, error) {
	var one int
	return s.tx.row([]any{&one}, `SELECT 1 FROM to_device WHERE user_id = ? AND device_id = ? AND position <= ? LIMIT 1`,
		string(user), string(device), int64(upto))
}

// Delete removes messages for a device up to a position, at most limit, and returns how many.
func (s ToDevice) Delete(user id.UserID, device id.DeviceID, upto stream.Position, limit int) (int64, error) {
	return s.tx.exec(deleteSome(s.tx.db.postgres, "to_device", `user_id = ? AND device_id = ? AND position <= ?`), string(user), string(device), int64(upto), limit)
}

// DeleteDevices removes all messages for some devices.
func (s ToDevice) DeleteDevices(user id.UserID, devices []id.DeviceID) error {
	_, err := s.tx.exec(`DELETE FROM to_device WHERE user_id = ? AND device_id IN (?)`, string(user), bun.In(devices))
	return err
}

// Overfull finds the devices for which more than keep messages wait, or more bytes of them. It looks at all messages: use
// it in a View.
func (s ToDevice) Overfull(keep, bytes int) ([]ToDeviceMessage, error) {
	var out []ToDeviceMessage
	err := s.tx.query(func(rows *sql.Rows) error {
		var m ToDeviceMessage
		if err := rows.Scan(&m.User, &m.Device); err != nil {
			return err
		}
		out = append(out, m)
		return nil
	}, `SELECT user_id, device_id FROM to_device GROUP BY user_id, device_id HAVING count(*) > ? OR sum(length(message)) > ?`, keep, bytes)
	return out, err
}

// Inbox lists the messages that wait for a device, the newest first.
func (s ToDevice) Inbox(user id.UserID, device id.DeviceID) ([]Waiting, error) {
	var out []Waiting
	err := s.tx.query(func(rows *sql.Rows) error {
		var w Waiting
		if err := rows.Scan(&w.Sender, &w.Position, &w.Size); err != nil {
			return err
		}
		out = append(out, w)
		return nil
	}, `SELECT sender, position, length(message) FROM to_device WHERE user_id = ? AND device_id = ? ORDER BY position DESC`,
		string(user), string(device))
	return out, err
}

// DeleteSome removes messages for a device.
func (s ToDevice) DeleteSome(user id.UserID, device id.DeviceID, positions []stream.Position) error {
	for chunk := range slices.Chunk(positions, 500) {
		_, err := s.tx.exec(`DELETE FROM to_device WHERE user_id = ? AND device_id = ? AND position IN (?)`, string(user), string(device), bun.In(chunk))
		if err != nil {
			return err
		}
	}
	return nil
}

// Devices lists the devices of local users.
func (s ToDevice) Devices(users []id.UserID) (map[id.UserID][]id.DeviceID, error) {
	out := make(map[id.UserID][]id.DeviceID, len(users))
	for chunk := range slices.Chunk(users, 500) {
		err := s.tx.query(func(rows *sql.Rows) error {
			var u id.UserID
			var d id.DeviceID
			if err := rows.Scan(&u, &d); err != nil {
				return err
			}
			out[u] = append(out[u], d)
			return nil
		}, `SELECT user_id, device_id FROM devices WHERE user_id IN (?) ORDER BY user_id, device_id`, bun.In(chunk))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
