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
	key := store.RequestKey{User: r.Sender, Device: r.Device, Scope: "sendToDevice " + r.Type, TxnID: r.TxnID}
	edus := map[id.ServerName]directMessage{}
	for server, messages := range remote {
		edus[server] = directMessage{r.Sender, r.Type, rand.Text(), messages}
	}
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		if fresh, err := tx.Requests.Insert(key, "", time.Now()); err != nil || !fresh {
			return err
		}
		for server, edu := range edus {
			if err := sendEDU(tx, []id.ServerName{server}, "m.direct_to_device", edu); err != nil {
				return err
			}
		}
		return s.deliver(tx, r.Sender, r.Type, local)
	})
	if err != nil {
		return fmt.Errorf("send to devices: %w", err)
	}
	s.pruneIfFull(ctx)
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

// deliver puts messages into the inboxes of local devices.
func (s *Service) deliver(tx *store.Tx, sender id.UserID, typ string, messages Messages) error {
	if len(messages) == 0 {
		return nil
	}
	users := slices.Sorted(maps.Keys(messages))
	there, err := tx.ToDevice.Devices(users)
	if err != nil {
		return err
	}
	var out []store.ToDeviceMessage
	size := 0
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
				return fmt.Errorf("encode a message: %w", err)
			}
			if size += len(message); size > maxDelivery || len(out) == maxMessages {
				return fmt.Errorf("%w: at most %d devices and %d bytes", ErrTooLarge, maxMessages, maxDelivery)
			}
			out = append(out, store.ToDeviceMessage{User: user, Device: device, Sender: sender, JSON: message})
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
	err = s.Store.Update(ctx, func(tx *store.Tx) error {
		key := store.RequestKey{User: m.Sender, Scope: "m.direct_to_device", TxnID: m.MessageID}
		if fresh, err := tx.Requests.Insert(key, "", time.Now()); err != nil || !fresh {
			return err
		}
		return s.deliver(tx, m.Sender, m.Type, local)
	})
	if err != nil {
		return fmt.Errorf("message to devices: %w", err)
	}
	s.pruneIfFull(ctx)
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
		err = s.Store.Update(ctx, func(tx *store.Tx) error { return tx.ToDevice.Delete(user, device, upto) })
	}
	if err != nil {
		return fmt.Errorf("delete delivered messages: %w", err)
	}
	return nil
}

// Prune removes what nobody waits for any longer: the oldest messages for devices that do not come, keys of backups that
// were deleted, and what is kept of remote users who share no room with anyone here. Call it every hour or so.
func (s *Service) Prune(ctx context.Context) error {
	forget := s.Store.Update(ctx, func(tx *store.Tx) error { return tx.OneTimeKeys.ForgetClaimed(maxClaimed) })
	if err := errors.Join(s.pruneInboxes(ctx), s.pruneStrangers(ctx), s.pruneBackups(ctx), forget); err != nil {
		return fmt.Errorf("prune keys: %w", err)
	}
	return nil
}

func (s *Service) pruneStrangers(ctx context.Context) error {
	var users []id.UserID
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		users, err = tx.DeviceLists.Unfollowed(1000)
		return err
	})
	for some := range slices.Chunk(users, 50) {
		if err == nil {
			err = s.Store.Update(ctx, func(tx *store.Tx) error { return tx.DeviceLists.DeleteUnfollowed(some) })
		}
	}
	return err
}
