package e2ee

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/securecomm/securecomm/homeserver/id"
)

// maxPerMessage is how many devices one PUT /sendToDevice addresses at most, so that bodies stay small.
const maxPerMessage = 50

// ToDevice is a message to devices that waits to be sent.
type ToDevice struct {
	Type string          // of the events
	Txn  string          // the transaction ID; the same after a crash
	Body json.RawMessage // of PUT /sendToDevice
}

// Users are whose devices it is for, sorted.
func (d *ToDevice) Users() []string {
	var body struct {
		Messages map[string]json.RawMessage `json:"messages"`
	}
	if json.Unmarshal(d.Body, &body) != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(body.Messages))
}

// recipients are contents by user and by device.
type recipients map[id.UserID]map[id.DeviceID]any

func (r recipients) add(user id.UserID, device id.DeviceID, content any) {
	if r[user] == nil {
		r[user] = map[id.DeviceID]any{}
	}
	r[user][device] = content
}

// post puts messages into the outbox.
func (t *txn) post(kind string, to recipients) error {
	batch, count := recipients{}, 0
	flush := func() error {
		if count == 0 {
			return nil
		}
		body, err := json.Marshal(map[string]any{"messages": batch})
		if err != nil {
			return fmt.Errorf("encoding messages to devices: %w", err)
		}
		transaction := newID()
		// The time comes first, so that the keys' order is the order of sending.
		err = t.save(fmt.Sprintf("%s%020d/%s", prefixOutbox, t.now.UnixNano(), transaction), ToDevice{Type: kind, Txn: transaction, Body: body})
		batch, count = recipients{}, 0
		return err
	}
	for user, devices := range to {
		for device, content := range devices {
			batch.add(user, device, content)
			if count++; count == maxPerMessage {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// Outbox is what has to be sent to devices, oldest first.
func (m *Machine) Outbox() ([]ToDevice, error) {
	var waiting []ToDevice
	for _, key := range m.vault.Keys(prefixOutbox) {
		one, err := load[ToDevice](m.vault, key)
		if err != nil {
			return nil, err
		}
		waiting = append(waiting, *one)
	}
	return waiting, nil
}

// MarkSent notes that the server took a message of the outbox, or will never take it.
func (m *Machine) MarkSent(transaction string) error {
	err := m.update(func(t *txn) error {
		for _, key := range t.Keys(prefixOutbox) {
			if strings.HasSuffix(key, "/"+transaction) {
				t.Delete(key)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("noting a message as sent: %w", err)
	}
	return nil
}
