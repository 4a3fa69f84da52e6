package e2ee

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/securecomm/securecomm/e2ee/olm"
	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	// maxRequests bounds the requests of own devices that wait to be served, keepRequest how long they wait.
	maxRequests = 200
	keepRequest = 24 * time.Hour
	// maxWithheld bounds the notes why keys are missing, which strangers can send.
	maxWithheld = 5000
	// maxAsked bounds the keys that the own devices were asked for: messages with made-up sessions must not fill
	// the vault. Those asked for longer than askAgain ago make room for others.
	maxAsked = 1000
	askAgain = time.Hour
)

// withheldContent is the content of m.room_key.withheld.
type withheldContent struct {
	Algorithm  string      `json:"algorithm"`
	Room       id.RoomID   `json:"room_id,omitempty"`
	Session    string      `json:"session_id,omitempty"`
	SenderKey  string      `json:"sender_key"`
	Code       string      `json:"code"`
	Reason     string      `json:"reason,omitempty"`
	FromDevice id.DeviceID `json:"from_device,omitempty"`
}

// withheldWords say what a code means, since what a stranger writes as the reason is not to be shown.
var withheldWords = map[string]string{
	withheldBlocked:    "its sender has blocked this device",
	withheldUnverified: "its sender shares keys with verified devices only",
	withheldNoOlm:      "its sender could not reach this device",
	"m.unauthorised":   "its sender says that this device may not read it",
	"m.unavailable":    "the device that was asked does not have the key either",
}

func (t *txn) receiveWithheld(sender id.UserID, raw json.RawMessage) (problem, err error) {
	var c withheldContent
	if json.Unmarshal(raw, &c) != nil || c.Algorithm != MegolmAlgorithm {
		return errors.New("it is malformed"), nil
	}
	if c.Code == withheldNoOlm {
		return t.receiveNoOlm(sender, &c)
	}
	_, known := withheldWords[c.Code]
	if !known || c.Session == "" || strings.ContainsRune(c.Session+string(c.Room), 0) || len(c.Session) > 255 || len(c.Room) > id.MaxLength {
		return nil, nil // nothing in it that could be told about a message
	}
	if _, has := t.Get(inboundKey(c.Room, c.Session)); has || len(t.Keys(prefixWithheld)) >= maxWithheld {
		return nil, nil
	}
	return nil, t.save(prefixWithheld+join(c.Room, c.Session), c.Code)
}

// noOlmKey is where a device is noted that could not reach this one.
func noOlmKey(user id.UserID, key string) string {
	return prefixWithheld + "\x00" + string(user) + "\x00" + key
}

// receiveNoOlm notes that a device could not reach this one, until it does, and begins a session with it if it is known.
// Such a note names neither room nor session: it is about all of them (Client-Server API, "Reporting that decryption keys
// are withheld").
func (t *txn) receiveNoOlm(sender id.UserID, c *withheldContent) (problem, err error) {
	key, problem := olm.ParseKey(c.SenderKey)
	if problem != nil {
		return problem, nil
	}
	note := noOlmKey(sender, key.String())
	if _, has := t.Get(note); !has && len(t.Keys(prefixWithheld)) >= maxWithheld {
		return nil, nil
	}
	return nil, errors.Join(t.save(note, c.Code), t.wedge(sender, key))
}

// withheldReason is the error for a message whose key is not here.
func (t *txn) withheldReason(room id.RoomID, e *roomEvent) (error, error) {
	code, err := load[string](t, prefixWithheld+join(room, e.Content.Session))
	if err != nil {
		return nil, err
	}
	if code == nil {
		// The sender's key is left out by newer clients: then the note of any device of the sender may be the reason.
		notes := t.Keys(noOlmKey(e.Sender, e.Content.SenderKey))
		if len(notes) == 0 {
			return ErrNoKey, nil
		}
		if key, err := olm.ParseKey(notes[0][len(noOlmKey(e.Sender, "")):]); err == nil {
			// It may not have been known when the note came.
			if err := t.wedge(e.Sender, key); err != nil {
				return nil, err
			}
		}
		if code, err = load[string](t, notes[0]); err != nil {
			return nil, err
		}
	}
	return fmt.Errorf("%w: %s", ErrNoKey, withheldWords[*code]), nil
}

// requestRecord is a key that the own devices were asked for.
type requestRecord struct {
	ID string `json:"id"`
	At int64  `json:"at"`
}

type requestContent struct {
	Action string       `json:"action"`
	Body   *requestBody `json:"body,omitempty"`
	ID     string       `json:"request_id"`
	Device id.DeviceID  `json:"requesting_device_id"`
}

type requestBody struct {
	Algorithm string    `json:"algorithm"`
	Room      id.RoomID `json:"room_id"`
	Session   string    `json:"session_id"`
}

// request asks the own other devices for a key. Whoever does not have it, or does not trust this device yet, does
// not answer; so it asks again when the key is still wanted an hour later.
func (t *txn) request(room id.RoomID, session string) error {
	key := prefixRequest + join(room, session)
	r, err := load[requestRecord](t, key)
	if err != nil {
		return err
	}
	switch {
	case r != nil && t.millis()-r.At < askAgain.Milliseconds():
		return nil
	case r == nil:
		if room, err := t.roomToAsk(); err != nil || !room {
			return err
		}
		r = &requestRecord{ID: newID()}
	}
	r.At = t.millis()
	if err := t.save(key, r); err != nil {
		return err
	}
	return t.toOwn(requestContent{Action: "request", ID: r.ID, Device: t.m.device, Body: &requestBody{MegolmAlgorithm, room, session}})
}

// roomToAsk says whether one more key may be asked for, and forgets old requests if there are too many.
func (t *txn) roomToAsk() (bool, error) {
	asked := t.Keys(prefixRequest)
	if len(asked) < maxAsked {
		return true, nil
	}
	dropped := false
	for _, key := range asked {
		r, err := load[requestRecord](t, key)
		if err != nil {
			return false, err
		}
		if t.millis()-r.At >= askAgain.Milliseconds() {
			t.Delete(key)
			dropped = true
		}
	}
	return dropped, nil
}

// cancelRequest tells the own devices that a key was found.
func (t *txn) cancelRequest(room id.RoomID, session string) error {
	key := prefixRequest + join(room, session)
	r, err := load[requestRecord](t, key)
	if err != nil || r == nil {
		return err
	}
	t.Delete(key)
	return t.toOwn(requestContent{Action: "request_cancellation", ID: r.ID, Device: t.m.device})
}

// toOwn sends to all other devices of the user.
func (t *txn) toOwn(c requestContent) error {
	own, err := loadUser(t, t.m.user)
	if err != nil {
		return err
	}
	to := recipients{}
	for device, d := range own.Devices {
		if device != t.m.device && !d.Gone {
			to.add(t.m.user, device, c)
		}
	}
	return t.post("m.room_key_request", to)
}

// serveRecord is a key of a room, or a secret, that another own device asked for.
type serveRecord struct {
	Device  id.DeviceID `json:"device"`
	Request string      `json:"request"`
	Body    requestBody `json:"body"`
	Secret  string      `json:"secret,omitempty"`
	At      int64       `json:"at"`
}

func serveKey(device id.DeviceID, request string) string {
	return prefixServe + string(device) + "\x00" + request
}

func (t *txn) receiveRequest(sender id.UserID, raw json.RawMessage) (problem, err error) {
	var c requestContent
	if json.Unmarshal(raw, &c) != nil {
		return errors.New("it is malformed"), nil
	}
	if c.Body == nil {
		c.Body = &requestBody{}
	}
	if c.Action == "request" && c.Body.Algorithm != MegolmAlgorithm {
		return nil, nil
	}
	return nil, t.noteRequest(sender, c.Action, serveRecord{Device: c.Device, Body: *c.Body}, c.ID)
}

// noteRequest keeps a request until it is served, or drops one that is not wanted any more.
func (t *txn) noteRequest(sender id.UserID, action string, r serveRecord, request string) error {
	if sender != t.m.user || r.Device == t.m.device || len(request) > 255 || len(r.Device) > 255 || strings.ContainsRune(request+string(r.Device), 0) {
		return nil // own devices are answered only
	}
	key := serveKey(r.Device, request)
	switch {
	case action == "request_cancellation":
		t.Delete(key)
		return nil
	case action != "request" || len(t.Keys(prefixServe)) >= maxRequests:
		return nil
	}
	r.Request, r.At = request, t.millis()
	return t.save(key, r)
}

// serveRequests gives verified own devices the keys that they asked for. A request waits while it is not known which
// devices there are, or while there is no session with the device; a device that is not verified is not answered
// at all, but may ask again.
func (t *txn) serveRequests() error {
	waiting := t.Keys(prefixServe)
	if len(waiting) == 0 {
		return nil
	}
	own, err := loadUser(t, t.m.user)
	if err != nil || own.outdated() {
		return err
	}
	for _, key := range waiting {
		r, err := load[serveRecord](t, key)
		if err != nil {
			return err
		}
		err = t.serve(own, r)
		switch {
		case errors.Is(err, errNoSession) && t.millis()-r.At < keepRequest.Milliseconds():
			continue // KeysToClaim sees it
		case err != nil && !errors.Is(err, errNoSession):
			return err
		}
		t.Delete(key)
	}
	return nil
}

// wanting are the own devices whose requests wait for a session.
func wanting(r reader) (map[id.DeviceID]bool, error) {
	devices := map[id.DeviceID]bool{}
	for _, key := range r.Keys(prefixServe) {
		s, err := load[serveRecord](r, key)
		if err != nil {
			return nil, err
		}
		devices[s.Device] = true
	}
	return devices, nil
}

func (t *txn) serve(own *userRecord, r *serveRecord) error {
	d := own.Devices[r.Device]
	if d == nil || d.Gone || t.m.deviceTrust(own, d).Level != Green {
		return nil
	}
	if r.Secret != "" {
		return t.giveSecret(d, r)
	}
	in, err := load[inboundRecord](t, inboundKey(r.Body.Room, r.Body.Session))
	if err != nil || in == nil {
		return err
	}
	sessionKey, err := in.Session.Export(in.Session.FirstIndex())
	if err != nil {
		return err
	}
	return t.tell(&d.Device, "m.forwarded_room_key", roomKey{Algorithm: MegolmAlgorithm, Room: r.Body.Room, Session: r.Body.Session,
		SessionKey: sessionKey, SenderKey: &in.SenderKey, Signing: in.Signing, Chain: &[]string{}})
}
