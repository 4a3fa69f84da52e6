package interop

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
)

// address names a device.
type address struct {
	user   id.UserID
	device id.DeviceID
}

// hub is a server as far as encryption sees it. It takes and gives the bodies of requests as they would stand on
// the wire, so that each side's JSON is read by the other as well.
type hub struct {
	t        testing.TB
	devices  perDevice[json.RawMessage]
	cross    map[id.UserID]*crossKeys
	oneTime  map[address]map[string]json.RawMessage
	fallback map[address]map[string]json.RawMessage
	inbox    map[address][]json.RawMessage
	changed  []id.UserID
	events   int
}

type crossKeys struct {
	Master      json.RawMessage `json:"master_key"`
	SelfSigning json.RawMessage `json:"self_signing_key"`
	UserSigning json.RawMessage `json:"user_signing_key"`
}

// perDevice is a value for each device of users, as bodies have it.
type perDevice[V any] map[id.UserID]map[id.DeviceID]V

func newHub(t testing.TB) *hub {
	return &hub{t: t, devices: perDevice[json.RawMessage]{}, cross: map[id.UserID]*crossKeys{},
		oneTime: map[address]map[string]json.RawMessage{}, fallback: map[address]map[string]json.RawMessage{},
		inbox: map[address][]json.RawMessage{}}
}

// counts is what a sync says of a device's one-time keys.
func (h *hub) counts(a address) map[string]int {
	return map[string]int{"signed_curve25519": len(h.oneTime[a])}
}

// unused is what a sync says of a device's fallback key.
func (h *hub) unused(a address) []string {
	if len(h.fallback[a]) == 0 {
		return []string{}
	}
	return []string{"signed_curve25519"}
}

func (h *hub) uploadKeys(a address, body []byte) []byte {
	h.t.Helper()
	var keys struct {
		Device   json.RawMessage            `json:"device_keys"`
		OneTime  map[string]json.RawMessage `json:"one_time_keys"`
		Fallback map[string]json.RawMessage `json:"fallback_keys"`
	}
	must(h.t, json.Unmarshal(body, &keys))
	if keys.Device != nil {
		if h.devices[a.user] == nil {
			h.devices[a.user] = map[id.DeviceID]json.RawMessage{}
		}
		h.devices[a.user][a.device] = keys.Device
		h.changed = append(h.changed, a.user)
	}
	if h.oneTime[a] == nil {
		h.oneTime[a] = map[string]json.RawMessage{}
	}
	maps.Copy(h.oneTime[a], keys.OneTime)
	if len(keys.Fallback) > 0 {
		h.fallback[a] = keys.Fallback
	}
	return h.json(args{"one_time_key_counts": h.counts(a)})
}

func (h *hub) query(a address, body []byte) []byte {
	h.t.Helper()
	var asked struct {
		Users map[id.UserID]json.RawMessage `json:"device_keys"`
	}
	must(h.t, json.Unmarshal(body, &asked))
	devices := perDevice[json.RawMessage]{}
	master, selfSigning, userSigning := map[id.UserID]json.RawMessage{}, map[id.UserID]json.RawMessage{}, map[id.UserID]json.RawMessage{}
	for user := range asked.Users {
		devices[user] = h.devices[user]
		if c := h.cross[user]; c != nil {
			master[user], selfSigning[user] = c.Master, c.SelfSigning
			if user == a.user {
				userSigning[user] = c.UserSigning
			}
		}
	}
	return h.json(args{"device_keys": devices, "master_keys": master, "self_signing_keys": selfSigning,
		"user_signing_keys": userSigning, "failures": args{}})
}

// claim gives one-time keys, and a fallback key where there is none left.
func (h *hub) claim(body []byte) []byte {
	h.t.Helper()
	var asked struct {
		Keys perDevice[string] `json:"one_time_keys"`
	}
	must(h.t, json.Unmarshal(body, &asked))
	given := perDevice[map[string]json.RawMessage]{}
	for user, devices := range asked.Keys {
		given[user] = map[id.DeviceID]map[string]json.RawMessage{}
		for device := range devices {
			a := address{user, device}
			if names := slices.Sorted(maps.Keys(h.oneTime[a])); len(names) > 0 {
				given[user][device] = map[string]json.RawMessage{names[0]: h.oneTime[a][names[0]]}
				delete(h.oneTime[a], names[0])
			} else if h.fallback[a] != nil {
				given[user][device] = h.fallback[a]
			}
		}
	}
	return h.json(args{"one_time_keys": given, "failures": args{}})
}

func (h *hub) uploadCross(user id.UserID, body []byte) {
	h.t.Helper()
	h.cross[user] = &crossKeys{}
	must(h.t, json.Unmarshal(body, h.cross[user]))
	h.changed = append(h.changed, user)
}

// uploadSignatures adds signatures to the devices and master keys that they are of.
func (h *hub) uploadSignatures(body []byte) []byte {
	h.t.Helper()
	var signed map[id.UserID]map[string]json.RawMessage
	must(h.t, json.Unmarshal(body, &signed))
	for user, objects := range signed {
		for name, object := range objects {
			if old, ok := h.devices[user][id.DeviceID(name)]; ok {
				h.devices[user][id.DeviceID(name)] = h.merge(old, object)
			} else if c := h.cross[user]; c != nil {
				c.Master = h.merge(c.Master, object)
			}
		}
		h.changed = append(h.changed, user)
	}
	return []byte(`{"failures":{}}`)
}

// merge adds the signatures of an object to those of another.
func (h *hub) merge(old, fresh json.RawMessage) json.RawMessage {
	h.t.Helper()
	var from struct {
		Signatures map[id.UserID]map[id.KeyID]string `json:"signatures"`
	}
	must(h.t, json.Unmarshal(fresh, &from))
	var into map[string]json.RawMessage
	must(h.t, json.Unmarshal(old, &into))
	signatures := map[id.UserID]map[id.KeyID]string{}
	must(h.t, json.Unmarshal(into["signatures"], &signatures))
	for user, keys := range from.Signatures {
		if signatures[user] == nil {
			signatures[user] = map[id.KeyID]string{}
		}
		maps.Copy(signatures[user], keys)
	}
	into["signatures"] = h.json(signatures)
	return h.json(into)
}

// send passes messages on to devices; "*" is all devices of a user.
func (h *hub) send(from id.UserID, kind string, body []byte) {
	h.t.Helper()
	var to struct {
		Messages map[id.UserID]map[id.DeviceID]json.RawMessage `json:"messages"`
	}
	must(h.t, json.Unmarshal(body, &to))
	for user, devices := range to.Messages {
		for device, content := range devices {
			event := h.json(args{"type": kind, "sender": from, "content": content})
			names := []id.DeviceID{device}
			if device == "*" {
				names = slices.Sorted(maps.Keys(h.devices[user]))
			}
			for _, name := range names {
				h.inbox[address{user, name}] = append(h.inbox[address{user, name}], event)
			}
		}
	}
}

// take empties the inbox of a device.
func (h *hub) take(a address) []json.RawMessage {
	waiting := h.inbox[a]
	delete(h.inbox, a)
	if waiting == nil {
		return []json.RawMessage{}
	}
	return waiting
}

// event is an encrypted event as a room's timeline has it.
func (h *hub) event(sender id.UserID, content json.RawMessage) json.RawMessage {
	h.t.Helper()
	h.events++
	return h.json(args{"type": "m.room.encrypted", "event_id": fmt.Sprint("$event", h.events),
		"sender": sender, "origin_server_ts": h.events, "content": content, "room_id": room})
}

func (h *hub) json(value any) json.RawMessage {
	h.t.Helper()
	raw, err := json.Marshal(value)
	must(h.t, err)
	return raw
}
