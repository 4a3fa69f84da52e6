package interop

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/e2ee/vault"
	"github.com/securecomm/securecomm/homeserver/id"
)

const room = id.RoomID("!room:one.example")

// maxRounds is how often one side may ask for more before a test takes it for a loop.
const maxRounds = 10

// member is one device, with our machine or with theirs.
type member interface {
	address() address
	fingerprint() string
	// sync takes in what waits, and does what it made necessary.
	sync()
	// share makes sure that the room's key is with all devices of members; it changes after so many messages.
	share(messages int, members ...id.UserID)
	encrypt(text string) json.RawMessage
	// read decrypts an event of the room; what to think of it is "green" if its sender was verified.
	read(event json.RawMessage) (text, trust string, err error)
}

// textContent is the content of the tests' messages.
type textContent struct {
	Body string `json:"body"`
}

// our is a device with the machine under test.
type our struct {
	*e2ee.Machine
	h     *hub
	at    address
	vault *vault.Vault
	path  string
	told  int // of hub.changed
	syncs int
}

func newOur(h *hub, user id.UserID, device id.DeviceID) *our {
	h.t.Helper()
	o := &our{h: h, at: address{user, device}, path: filepath.Join(h.t.TempDir(), "vault")}
	o.open()
	h.t.Cleanup(func() { o.vault.Close() })
	o.sync()
	return o
}

func (o *our) open() {
	o.h.t.Helper()
	key, err := vault.KeyFile(o.path + ".key")
	must(o.h.t, err)
	o.vault, err = vault.Open(o.path, key)
	must(o.h.t, err)
	o.Machine, err = e2ee.Open(o.vault, o.at.user, o.at.device)
	must(o.h.t, err)
}

// restart goes on with what is on disk.
func (o *our) restart() {
	o.h.t.Helper()
	must(o.h.t, o.vault.Close())
	o.open()
}

func (o *our) address() address    { return o.at }
func (o *our) fingerprint() string { return o.Fingerprint() }

func (o *our) sync() {
	o.h.t.Helper()
	o.syncs++
	_, err := o.ReceiveSync(e2ee.Sync{ToDevice: o.h.take(o.at), Changed: o.h.changed[o.told:], Next: fmt.Sprint("s", o.syncs),
		OneTimeKeys: o.h.counts(o.at), UnusedFallback: o.h.unused(o.at)})
	must(o.h.t, err)
	o.told = len(o.h.changed)
	o.flush()
}

func (o *our) flush(members ...id.UserID) {
	t := o.h.t
	t.Helper()
	keys, err := o.KeysUpload()
	must(t, err)
	if keys != nil {
		o.h.uploadKeys(o.at, o.h.json(keys))
		must(t, o.MarkKeysUploaded(keys, o.h.counts(o.at)))
	}
	query, err := o.UsersToQuery(members...)
	must(t, err)
	if query != nil {
		changes, err := o.ReceiveKeysQuery(query, o.h.query(o.at, o.h.json(query)))
		must(t, err)
		must(t, errors.Join(changes.Problems...))
	}
	claim, err := o.KeysToClaim(members...)
	must(t, err)
	if claim != nil {
		problems, err := o.ReceiveKeysClaim(claim, o.h.claim(o.h.json(claim)))
		must(t, err)
		must(t, errors.Join(problems...))
	}
	waiting, err := o.Outbox()
	must(t, err)
	for _, one := range waiting {
		o.h.send(o.at.user, one.Type, one.Body)
		must(t, o.MarkSent(one.Txn))
	}
}

func (o *our) share(messages int, members ...id.UserID) {
	o.h.t.Helper()
	o.sync()
	o.flush(members...)
	_, err := o.ShareRoomKey(room, e2ee.Sharing{Members: members, Visibility: "shared", MaxMessages: int64(messages)})
	must(o.h.t, err)
	o.flush(members...)
}

func (o *our) encrypt(text string) json.RawMessage {
	o.h.t.Helper()
	content, err := o.EncryptRoomEvent(room, "m.room.message", o.h.json(textContent{text}))
	must(o.h.t, err)
	return o.h.event(o.at.user, content)
}

func (o *our) read(event json.RawMessage) (text, trust string, err error) {
	got, err := o.DecryptRoomEvent(room, event)
	if err != nil {
		return "", "", err
	}
	var content textContent
	must(o.h.t, json.Unmarshal(got.Content, &content))
	return content.Body, got.Trust.Level.String(), nil
}

// their is a device with the OlmMachine of matrix-sdk-crypto.
type their struct {
	h    *hub
	p    *peer
	at   address
	keys struct{ Curve25519, Ed25519 string }
	told int
}

func newTheir(h *hub, p *peer, user id.UserID, device id.DeviceID) *their {
	h.t.Helper()
	o := &their{h: h, p: p, at: address{user, device}}
	o.do("open", args{"user": user, "device": device}, &o.keys)
	o.sync()
	return o
}

// name is what the peer knows the machine by.
func (o *their) name() string { return string(o.at.user) + " " + string(o.at.device) }

func (o *their) try(name string, with args, value any) error {
	o.h.t.Helper()
	with["machine"] = o.name()
	return o.p.Try("machine."+name, with, value)
}

func (o *their) do(name string, with args, value any) {
	o.h.t.Helper()
	if err := o.try(name, with, value); err != nil {
		o.h.t.Fatalf("%s: %v", name, err)
	}
}

func (o *their) address() address    { return o.at }
func (o *their) fingerprint() string { return o.keys.Ed25519 }

// processed is what became of one to-device event.
type processed struct {
	Kind  string
	Event json.RawMessage
}

func (o *their) receive(events []json.RawMessage) (got []processed) {
	o.h.t.Helper()
	changed := slices.Compact(slices.Sorted(slices.Values(o.h.changed[o.told:])))
	o.told = len(o.h.changed)
	o.do("sync", args{"events": events, "changed": append([]id.UserID{}, changed...), "left": []id.UserID{},
		"counts": o.h.counts(o.at), "fallback": o.h.unused(o.at)}, &got)
	return got
}

func (o *their) sync() {
	o.h.t.Helper()
	o.receive(o.h.take(o.at))
	o.flush()
}

// request is what a machine of theirs wants sent.
type request struct{ ID, Type, Body, Event string }

func (o *their) flush() {
	o.h.t.Helper()
	for range maxRounds {
		var requests []request
		o.do("outgoing", args{}, &requests)
		if len(requests) == 0 {
			return
		}
		for _, r := range requests {
			o.carry(&r)
		}
	}
	o.h.t.Fatal("their machine has no end of requests")
}

// carry brings a request to the hub and the answer back.
func (o *their) carry(r *request) {
	o.h.t.Helper()
	if r == nil {
		return
	}
	answer := []byte("{}")
	switch r.Type {
	case "KeysUpload":
		answer = o.h.uploadKeys(o.at, []byte(r.Body))
	case "KeysQuery":
		answer = o.h.query(o.at, []byte(r.Body))
	case "KeysClaim":
		answer = o.h.claim([]byte(r.Body))
	case "ToDevice":
		o.h.send(o.at.user, r.Event, []byte(r.Body))
	case "SignatureUpload":
		answer = o.h.uploadSignatures([]byte(r.Body))
	default:
		o.h.t.Fatalf("a request of type %s", r.Type)
	}
	if r.ID != "" {
		o.do("sent", args{"id": r.ID, "type": r.Type, "answer": string(answer)}, nil)
	}
}

// carryUnnumbered is for requests of which their machine wants to hear nothing again.
func (o *their) carryUnnumbered(kind string, r *request) {
	o.h.t.Helper()
	r.Type, r.ID = kind, ""
	o.carry(r)
}

func (o *their) share(messages int, members ...id.UserID) {
	o.h.t.Helper()
	o.sync()
	o.do("track", args{"members": members}, nil)
	o.flush()
	var claim *request
	o.do("missing", args{"members": members}, &claim)
	o.carry(claim)
	var keys []request
	o.do("share", args{"room": room, "members": members, "messages": messages}, &keys)
	for _, r := range keys {
		r.Type = "ToDevice"
		o.carry(&r)
	}
}

func (o *their) encrypt(text string) json.RawMessage {
	o.h.t.Helper()
	var content json.RawMessage
	o.do("encrypt", args{"room": room, "type": "m.room.message", "content": textContent{text}}, &content)
	return o.h.event(o.at.user, content)
}

func (o *their) read(event json.RawMessage) (text, trust string, err error) {
	o.h.t.Helper()
	var got struct {
		Event  struct{ Content textContent }
		Shield string
	}
	err = o.try("decrypt", args{"room": room, "event": event}, &got)
	// Strictly, whoever was not verified gets a shield.
	return got.Event.Content.Body, map[string]string{"red": "red", "grey": "red", "none": "green"}[got.Shield], err
}

// reads checks that a message is read.
func reads(t testing.TB, m member, event json.RawMessage, text string) {
	t.Helper()
	if got, _, err := m.read(event); err != nil || got != text {
		t.Fatalf("%s reads %q, %v; want %q", m.address().user, got, err, text)
	}
}

// looks checks what to think of a message.
func looks(t testing.TB, m member, event json.RawMessage, want string) {
	t.Helper()
	if _, trust, err := m.read(event); err != nil || trust != want {
		t.Fatalf("%s thinks %q of it, %v; want %q", m.address().user, trust, err, want)
	}
}
