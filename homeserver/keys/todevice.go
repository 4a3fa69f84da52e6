package keys

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// everyDevice stands for all devices of a user.
const everyDevice id.DeviceID = "*"

// Messages are the contents of messages by user and device.
type Messages map[id.UserID]map[id.DeviceID]json.RawMessage

// Servers is how many servers the messages are for beside one.
func (m Messages) Servers(beside id.ServerName) int {
	servers := map[id.ServerName]struct{}{}
	for user := range m {
		if server := user.Server(); server != beside {
			servers[server] = struct{}{}
		}
	}
	return len(servers)
}

// ToDevice is a request to send messages to devices.
type ToDevice struct {
	Sender   id.UserID
	Device   id.DeviceID // the sender's
	Type     string
	TxnID    string
	Messages Messages
}

// directMessage is the content of m.direct_to_device.
type directMessage struct {
	Sender    id.UserID `json:"sender"`
	Type      string    `json:"type"`
	MessageID string    `json:"message_id"`
	Messages  Messages  `json:"messages"`
}

// SendToDevice puts messages into the inboxes of local devices and sends others to their servers
// (Client-Server API, PUT /sendToDevice). A repeated transaction ID does nothing. Messages to devices
// that do not exist are dropped.
func (s *Service) SendToDevice(ctx context.Context, r ToDevice) error {
	if err := checkMessages(r.Type, r.Messages); err != nil {
		return fmt.Errorf("send to devices: %w", err)
	}
	local, remote := s.split(r.Messages)
	if s.Remote == nil {
		clear(remote) // nobody would deliver it
	}
	if len(remote) > maxServers {
		return fmt.Errorf("send to devices: %w: at most %d other servers", ErrTooLarge, maxServers)
	}
	key := store.RequestKey{User: r.Sender, Device: r.Device, Scope: "sendToDevice " + r.Type, TxnID: r.TxnID}
	var edus []store.DataUnit
	var servers []id.ServerName
	for server, messages := range remote {
		edu, err := encodeEDU("m.direct_to_device", directMessage{r.Sender, r.Type, rand.Text(), messages})
		if err != nil {
			return err
		}
		servers, edus = append(servers, server), append(edus, store.DataUnit{JSON: edu, Sender: r.Sender})
	}
	if err := s.deliver(ctx, key, r.Type, local, servers, edus); err != nil {
		return fmt.Errorf("send to devices: %w", err)
	}
	return nil
}

// checkMessages checks messages and brings their contents into canonical form, which other servers need.
func checkMessages(typ string, messages Messages) error {
	if typ == "" || len(typ) > event.MaxFieldLength {
		return fmt.Errorf("%w: the type has 1 to %d bytes", ErrInvalid, event.MaxFieldLength)
	}
	n := 0
	for user, devices := range messages {
		if _, err := id.ParseUserID(string(user)); err != nil {
			return err
		}
		if n += len(devices); n > maxMessages {
			return fmt.Errorf("%w: at most %d devices", ErrTooLarge, maxMessages)
		}
		for device, content := range devices {
			if err := checkName(string(device), "a device ID"); err != nil {
				return err
			}
			canonical, err := canonicaljson.Canonicalize(content)
			if err != nil || canonical[0] != '{' {
				return fmt.Errorf("message: %w: not an object of canonical JSON", ErrInvalid)
			}
			if len(canonical) > maxMessage {
				return fmt.Errorf("message: %w: at most %d bytes", ErrTooLarge, maxMessage)
			}
			devices[device] = canonical
		}
	}
	return nil
}

func (s *Service) split(messages Messages) (local Messages, remote map[id.ServerName]Messages) {
	local, remote = Messages{}, map[id.ServerName]Messages{}
	for user, devices := range messages {
		of := local
		if !s.isLocal(user) {
			if of = remote[user.Server()]; of == nil {
				of = Messages{}
				remote[user.Server()] = of
			}
		}
		of[user] = devices
	}
	return local, remote
}

// deliver puts messages into the inboxes of local devices, and data units for servers into the outbox, unless that has been
// done under the same key. All is made ready before the update, which others wait for.
func (s *Service) deliver(ctx context.Context, key store.RequestKey, typ string, messages Messages, servers []id.ServerName, edus []store.DataUnit) error {
	list, err := s.address(ctx, key.User, typ, messages)
	if err != nil {
		return err
	}
	err = s.Store.Update(ctx, func(tx *store.Tx) error {
		if fresh, err := tx.Requests.Insert(key, "", time.Now()); err != nil || !fresh {
			return err
		}
		tx.Outbox.AddEDUs(servers, edus)
		return s.deliverTo(tx, list)
	})
	if err == nil {
		s.pruneIfFull(ctx)
	}
	return err
}

// address finds the local devices that messages are for, and writes what each gets.
func (s *Service) address(ctx context.Context, sender id.UserID, typ string, messages Messages) ([]store.ToDeviceMessage, error) {
	var out []store.ToDeviceMessage
	size := 0
	for users := range slices.Chunk(slices.Sorted(maps.Keys(messages)), lookStep) {
		var there map[id.UserID][]id.DeviceID
		err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
			there, err = tx.ToDevice.Devices(users)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, user := range users {
			every, all := messages[user][everyDevice]
			for _, device := range there[user] {
				content, ok := messages[user][device]
				if !ok {
					content, ok = every, all
				}
				if !ok {
					continue
				}
				message, err := json.Marshal(struct {
					Sender  id.UserID       `json:"sender"`
					Type    string          `json:"type"`
					Content json.RawMessage `json:"content"`
				}{sender, typ, content})
				if err != nil {
					return nil, fmt.Errorf("encode a message: %w", err)
				}
				if size += len(message); size > maxDelivery || len(out) == maxMessages {
					return nil, fmt.Errorf("%w: at most %d devices and %d bytes", ErrTooLarge, maxMessages, maxDelivery)
				}
				out = append(out, store.ToDeviceMessage{User: user, Device: device, Sender: sender, JSON: message})
			}
		}
	}
	return out, nil
}

// deliverTo puts messages into the inboxes of those of their devices that are still there.
func (s *Service) deliverTo(tx *store.Tx, messages []store.ToDeviceMessage) error {
	if len(messages) == 0 {
		return nil
	}
	var users []id.UserID
	for _, m := range messages {
		users = append(users, m.User)
	}
	there, err := tx.ToDevice.Devices(slices.Compact(users))
	if err != nil {
		return err
	}
	type name struct {
		user   id.UserID
		device id.DeviceID
	}
	still := map[name]bool{}
	for user, devices := range there {
		for _, device := range devices {
			still[name{user, device}] = true
		}
	}
	out, size := make([]store.ToDeviceMessage, 0, len(messages)), 0
	for _, m := range messages {
		if still[name{m.User, m.Device}] {
			size += len(m.JSON)
			out = append(out, m)
		}
	}
	tx.ToDevice.Add(out)
	tx.AfterCommit(func() { s.delivered.Add(int64(size + len(out)*messageOverhead)) })
	return nil
}

// pruneIfFull prunes before its time if much was delivered: whoever fills inboxes waits for it.
func (s *Service) pruneIfFull(ctx context.Context) {
	n := s.delivered.Load()
	if n < pruneInboxesAfter || !s.delivered.CompareAndSwap(n, 0) {
		return
	}
	if err := s.pruneInboxes(ctx); err != nil && ctx.Err() == nil && s.Log != nil {
		s.Log.Warn("cannot prune the inboxes of devices", "err", err)
	}
}

// ReceiveToDevice takes the content of m.direct_to_device from another server. The same message is
// delivered once, however often it comes.
func (s *Service) ReceiveToDevice(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	var m directMessage
	if err := json.Unmarshal(content, &m); err != nil {
		return fmt.Errorf("message to devices: %w: a member has the wrong type", ErrInvalid)
	}
	err := errors.Join(checkOrigin(origin, m.Sender), checkName(m.MessageID, "a message ID"), checkMessages(m.Type, m.Messages))
	if err != nil {
		return fmt.Errorf("message to devices: %w", err)
	}
	local, _ := s.split(m.Messages)
	key := store.RequestKey{User: m.Sender, Scope: "m.direct_to_device", TxnID: m.MessageID}
	if err := s.deliver(ctx, key, m.Type, local, nil, nil); err != nil {
		return fmt.Errorf("message to devices: %w", err)
	}
	return nil
}

// Delivered deletes the messages for a device up to a position: the device has come back with a token
// that is not older.
func (s *Service) Delivered(ctx context.Context, user id.UserID, device id.DeviceID, upto stream.Position) error {
	waiting := false
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		waiting, err = tx.ToDevice.Any(user, device, upto)
		return err
	})
	if err == nil && waiting {
		err = s.Store.Prune(ctx, func(tx *store.Tx, limit int) (int64, error) { return tx.ToDevice.Delete(user, device, upto, limit) })
	}
	if err != nil {
		return fmt.Errorf("delete delivered messages: %w", err)
	}
	return nil
}

// Prune removes what nobody waits for any longer: the oldest messages for devices that do not come, keys of backups that
// were deleted, and what is kept of remote users who share no room with anyone here. Call it every hour or so.
func (s *Service) Prune(ctx context.Context) error {
	if err := errors.Join(s.pruneInboxes(ctx), s.pruneStrangers(ctx), s.pruneBackups(ctx), s.pruneSignatures(ctx)); err != nil {
		return fmt.Errorf("prune keys: %w", err)
	}
	return nil
}

// pruneSignatures deletes what former user-signing keys have signed.
func (s *Service) pruneSignatures(ctx context.Context) error {
	for {
		var old []store.UserSignature
		err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
			old, err = tx.CrossSigning.OldSignatures(20 * dropStep)
			return err
		})
		if err != nil || len(old) == 0 {
			return err
		}
		for step := range slices.Chunk(old, dropStep) {
			if err := s.Store.Update(ctx, func(tx *store.Tx) error { return tx.CrossSigning.DeleteOldSignatures(step) }); err != nil {
				return err
			}
		}
	}
}

func (s *Service) pruneStrangers(ctx context.Context) error {
	var users []id.UserID
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		users, err = tx.DeviceLists.Unfollowed(1000)
		return err
	})
	for some := range slices.Chunk(users, strangerStep) {
		if err == nil {
			err = s.Store.Update(ctx, func(tx *store.Tx) error { return tx.DeviceLists.DeleteUnfollowed(some) })
		}
	}
	return err
}
