package e2ee

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/securecomm/securecomm/e2ee/backup"
	"github.com/securecomm/securecomm/e2ee/vault"
	"github.com/securecomm/securecomm/homeserver/id"
)

const room = id.RoomID("!room:h")

// world is a server as far as encryption sees it: it stores keys and passes messages on.
type world struct {
	t       testing.TB
	devices map[id.UserID]map[id.DeviceID]json.RawMessage
	cross   map[id.UserID]*CrossSigningUpload
	oneTime map[DeviceRef]map[string]json.RawMessage
	inbox   map[DeviceRef][]json.RawMessage
	changed []id.UserID
	people  []*person
	events  int
}

// person is one device with its machine.
type person struct {
	*Machine
	w       *world
	path    string
	changes int // of world.changed that were told
	syncs   int
}

func newWorld(t testing.TB) *world {
	return &world{t: t, devices: map[id.UserID]map[id.DeviceID]json.RawMessage{}, cross: map[id.UserID]*CrossSigningUpload{},
		oneTime: map[DeviceRef]map[string]json.RawMessage{}, inbox: map[DeviceRef][]json.RawMessage{}}
}

func (w *world) join(user id.UserID, device id.DeviceID) *person {
	w.t.Helper()
	p := &person{w: w, path: filepath.Join(w.t.TempDir(), "vault")}
	p.open(user, device)
	w.people = append(w.people, p)
	w.t.Cleanup(func() { p.vault.Close() })
	p.sync()
	return p
}

func (p *person) open(user id.UserID, device id.DeviceID) {
	p.w.t.Helper()
	key, err := vault.KeyFile(p.path + ".key") // a passphrase would take its time
	must(p.w.t, err)
	v, err := vault.Open(p.path, key)
	must(p.w.t, err)
	p.Machine, err = Open(v, user, device)
	must(p.w.t, err)
}

// restart closes the vault and opens it again, as a crash between two transactions would.
func (p *person) restart() {
	p.w.t.Helper()
	user, device := p.User(), p.Device()
	must(p.w.t, p.vault.Close())
	p.open(user, device)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (p *person) ref() DeviceRef { return DeviceRef{p.User(), p.Device()} }

// sync takes in what waits, and does what it made necessary.
func (p *person) sync() *Received {
	p.w.t.Helper()
	messages := p.w.inbox[p.ref()]
	p.w.inbox[p.ref()] = nil
	p.syncs++
	got, err := p.ReceiveSync(Sync{ToDevice: messages, Changed: p.w.changed[p.changes:], Next: fmt.Sprint("s", p.syncs),
		OneTimeKeys: map[string]int{oneTimeAlgorithm: len(p.w.oneTime[p.ref()])}})
	must(p.w.t, err)
	p.changes = len(p.w.changed)
	p.flush()
	return got
}

func (p *person) flush(users ...id.UserID) {
	p.w.t.Helper()
	body, err := p.KeysUpload()
	must(p.w.t, err)
	if body != nil {
		p.w.upload(p.ref(), body)
		must(p.w.t, p.MarkKeysUploaded(body, map[string]int{oneTimeAlgorithm: len(p.w.oneTime[p.ref()])}))
	}
	query, err := p.UsersToQuery(users...)
	must(p.w.t, err)
	if query != nil {
		_, err = p.ReceiveKeysQuery(query, p.w.query(query))
		must(p.w.t, err)
	}
	claim, err := p.KeysToClaim(users...)
	must(p.w.t, err)
	if claim != nil {
		_, err = p.ReceiveKeysClaim(claim, p.w.claim(claim))
		must(p.w.t, err)
	}
	p.deliver()
}

func (p *person) deliver() {
	p.w.t.Helper()
	waiting, err := p.Outbox()
	must(p.w.t, err)
	for _, one := range waiting {
		var body struct {
			Messages map[id.UserID]map[id.DeviceID]json.RawMessage `json:"messages"`
		}
		must(p.w.t, json.Unmarshal(one.Body, &body))
		for user, devices := range body.Messages {
			for device, content := range devices {
				event, err := json.Marshal(map[string]any{"type": one.Type, "sender": p.User(), "content": content})
				must(p.w.t, err)
				p.w.inbox[DeviceRef{user, device}] = append(p.w.inbox[DeviceRef{user, device}], event)
			}
		}
		must(p.w.t, p.MarkSent(one.Txn))
	}
}

func (w *world) upload(ref DeviceRef, body *KeysUpload) {
	if body.DeviceKeys != nil {
		if w.devices[ref.User] == nil {
			w.devices[ref.User] = map[id.DeviceID]json.RawMessage{}
		}
		w.devices[ref.User][ref.Device] = body.DeviceKeys
		w.changed = append(w.changed, ref.User)
	}
	if w.oneTime[ref] == nil {
		w.oneTime[ref] = map[string]json.RawMessage{}
	}
	maps.Copy(w.oneTime[ref], body.OneTimeKeys)
}

func (w *world) query(q *KeyQuery) []byte {
	a := keysAnswer{Devices: map[id.UserID]map[id.DeviceID]json.RawMessage{}, Master: map[id.UserID]json.RawMessage{},
		SelfSigning: map[id.UserID]json.RawMessage{}, UserSigning: map[id.UserID]json.RawMessage{}}
	for _, user := range q.Users() {
		a.Devices[user] = w.devices[user]
		if c := w.cross[user]; c != nil {
			a.Master[user], a.SelfSigning[user], a.UserSigning[user] = c.Master, c.SelfSigning, c.UserSigning
		}
	}
	raw, err := json.Marshal(a)
	must(w.t, err)
	return raw
}

func (w *world) claim(c *KeyClaim) []byte {
	keys := map[id.UserID]map[id.DeviceID]map[string]json.RawMessage{}
	for _, ref := range c.devices {
		for name, key := range w.oneTime[ref] {
			if keys[ref.User] == nil {
				keys[ref.User] = map[id.DeviceID]map[string]json.RawMessage{}
			}
			keys[ref.User][ref.Device] = map[string]json.RawMessage{name: key}
			delete(w.oneTime[ref], name)
			break
		}
	}
	raw, err := json.Marshal(map[string]any{"one_time_keys": keys})
	must(w.t, err)
	return raw
}

// bootstrap makes the user's identity and publishes it, with the signature on the device.
func (p *person) bootstrap() {
	p.w.t.Helper()
	body, err := p.CreateCrossSigning()
	must(p.w.t, err)
	p.w.cross[p.User()] = body
	signatures, err := p.MarkCrossSigningUploaded()
	must(p.w.t, err)
	p.publish(signatures)
}

func (p *person) publish(signatures *SignaturesUpload) {
	for user, objects := range *signatures {
		for name, object := range objects {
			if _, ok := p.w.devices[user][id.DeviceID(name)]; ok {
				p.w.devices[user][id.DeviceID(name)] = object
			}
		}
		p.w.changed = append(p.w.changed, user)
	}
}

// send encrypts a message for members and gives the event.
func (p *person) send(text string, s Sharing) json.RawMessage {
	p.w.t.Helper()
	p.share(s)
	content, err := p.EncryptRoomEvent(room, "m.room.message", json.RawMessage(fmt.Sprintf(`{"body":%q}`, text)))
	must(p.w.t, err)
	p.w.events++
	event, err := json.Marshal(map[string]any{"event_id": fmt.Sprintf("$%d", p.w.events), "sender": p.User(),
		"origin_server_ts": p.w.events, "content": content})
	must(p.w.t, err)
	return event
}

func (p *person) share(s Sharing) []Withheld {
	p.w.t.Helper()
	p.sync()
	p.flush(s.Members...)
	withheld, err := p.ShareRoomKey(room, s)
	must(p.w.t, err)
	p.deliver()
	return withheld
}

// reads checks that a message is read with a text and a level.
func (p *person) reads(event json.RawMessage, text string, level Level) {
	p.w.t.Helper()
	p.sync()
	got, err := p.DecryptRoomEvent(room, event)
	if err != nil {
		p.w.t.Fatalf("%s: %v", p.User(), err)
	}
	var content struct{ Body string }
	must(p.w.t, json.Unmarshal(got.Content, &content))
	if content.Body != text || got.Trust.Level != level || got.Type != "m.room.message" {
		p.w.t.Errorf("%s reads %q with %s", p.User(), content.Body, got.Trust)
	}
}

func (p *person) refuses(event json.RawMessage, want error) {
	p.w.t.Helper()
	p.sync()
	if got, err := p.DecryptRoomEvent(room, event); !errors.Is(err, want) {
		p.w.t.Errorf("%s: %v, %v, not %v", p.User(), got, err, want)
	}
	p.deliver()
}

func session(t testing.TB, event json.RawMessage) string {
	t.Helper()
	var e roomEvent
	must(t, json.Unmarshal(event, &e))
	return e.Content.Session
}

var both = Sharing{Members: []id.UserID{"@alice:h", "@bob:h"}, Visibility: "shared"}

func TestTwoPeopleTalk(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	first := alice.send("hello", both)
	bob.reads(first, "hello", Yellow)
	alice.reads(first, "hello", Green)
	for i := range 5 {
		alice.reads(bob.send(fmt.Sprint("b", i), both), fmt.Sprint("b", i), Yellow)
		bob.restart()
		bob.reads(alice.send(fmt.Sprint("a", i), both), fmt.Sprint("a", i), Yellow)
		alice.restart()
	}
	must(t, bob.SetDeviceTrust("@alice:h", "A", Verified, alice.Fingerprint()))
	bob.reads(first, "hello", Green)
	if err := bob.SetDeviceTrust("@alice:h", "A", Verified, bob.Fingerprint()); !errors.Is(err, ErrFingerprint) {
		t.Errorf("another fingerprint: %v", err)
	}
}

func TestReplayIsDetected(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	event := alice.send("once", both)
	bob.reads(event, "once", Yellow)
	bob.reads(event, "once", Yellow)
	var e map[string]any
	must(t, json.Unmarshal(event, &e))
	e["event_id"] = "$copy"
	copied, err := json.Marshal(e)
	must(t, err)
	bob.refuses(copied, ErrReplayed)
	e["event_id"], e["origin_server_ts"] = "$1", 77
	copied, err = json.Marshal(e)
	must(t, err)
	bob.refuses(copied, ErrReplayed)
}

func TestClaimedSenderMustBeTheSessions(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	var e map[string]any
	must(t, json.Unmarshal(alice.send("from alice", both), &e))
	e["sender"] = "@mallory:h"
	forged, err := json.Marshal(e)
	must(t, err)
	bob.sync()
	got, err := bob.DecryptRoomEvent(room, forged)
	must(t, err)
	if got.Trust != (Trust{Red, ReasonOtherSender}) {
		t.Errorf("it is %s", got.Trust)
	}
	if _, err := bob.DecryptRoomEvent("!other:h", forged); !errors.Is(err, ErrNoKey) {
		t.Errorf("in another room: %v", err)
	}
}

func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
		carol := w.join("@carol:h", "C")
		three := Sharing{Members: []id.UserID{"@alice:h", "@bob:h", "@carol:h"}, Visibility: "shared", MaxMessages: 3}
		one := session(t, alice.send("1", three))
		if again := session(t, alice.send("2", three)); again != one {
			t.Error("it changed for no reason")
		}
		alice.send("3", three)
		two := session(t, alice.send("4", three))
		if two == one {
			t.Error("it was used for more messages than allowed")
		}
		time.Sleep(defaultAge)
		three.MaxMessages = 0
		old := session(t, alice.send("5", three))
		if old == two {
			t.Error("it did not change with age")
		}
		left := three
		left.Members = both.Members
		secret := alice.send("without carol", left)
		if session(t, secret) == old {
			t.Error("it did not change when a member left")
		}
		carol.refuses(secret, ErrNoKey)
		bob.reads(secret, "without carol", Yellow)
		joined := session(t, alice.send("6", three))
		if joined != session(t, secret) {
			t.Error("it changed when a member joined")
		}
		carol.refuses(secret, ErrNoKey) // its key reaches later messages only
		left.Visibility = "joined"
		if session(t, alice.send("7", left)) == joined {
			t.Error("it did not change with the visibility")
		}
		delete(w.devices["@bob:h"], "B")
		w.changed = append(w.changed, "@bob:h")
		gone := alice.send("8", both)
		bob.refuses(gone, ErrNoKey)
	})
}

func TestWhoGetsTheKey(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	bob2 := w.join("@bob:h", "B2")
	must(t, func() error { alice.share(both); return alice.SetDeviceTrust("@bob:h", "B2", Blocked, "") }())
	event := alice.send("not for B2", both)
	bob.reads(event, "not for B2", Yellow)
	bob2.refuses(event, ErrNoKey)
	if _, err := bob2.DecryptRoomEvent(room, event); err == nil || err.Error() == ErrNoKey.Error() {
		t.Errorf("B2 was not told why: %v", err)
	}
	strict := both
	strict.VerifiedOnly = true
	withheld := alice.share(strict)
	if len(withheld) != 2 || withheld[0].Device != "B" || withheld[0].Code != withheldUnverified {
		t.Errorf("withheld %v", withheld)
	}
	// Once Bob has an identity, only what it signed gets keys.
	bob.bootstrap()
	must(t, alice.SetDeviceTrust("@bob:h", "B2", Undecided, ""))
	event = alice.send("signed ones", both)
	bob.reads(event, "signed ones", Yellow)
	bob2.refuses(event, ErrNoKey)
}

func TestIdentityChange(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	bob.bootstrap()
	event := bob.send("it is me", both)
	alice.reads(event, "it is me", Yellow)
	identity, err := alice.Identity("@bob:h")
	must(t, err)
	_, err = alice.VerifyUser("@bob:h", identity.Fingerprint)
	must(t, err)
	alice.reads(event, "it is me", Green)
	bob.bootstrap() // or somebody else with the server's help
	alice.reads(event, "it is me", Red)
	alice.sync()
	if withheld := alice.share(both); len(withheld) != 1 || withheld[0].Reason != ReasonIdentityChanged {
		t.Errorf("withheld %v", withheld)
	}
	must(t, alice.AcceptIdentity("@bob:h"))
	alice.reads(event, "it is me", Yellow)
}

func TestExchangedKeysAreRefused(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	alice.share(both)
	mallory := newWorld(t)
	fake := mallory.join("@bob:h", "B")
	w.devices["@bob:h"]["B"] = mallory.devices["@bob:h"]["B"]
	w.changed = append(w.changed, "@bob:h")
	event := alice.send("for the real one", both)
	bob.reads(event, "for the real one", Yellow)
	fake.refuses(event, ErrNoKey)
}

func TestUnwedging(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	alice.reads(bob.send("hi", both), "hi", Yellow)
	bob.reads(alice.send("hi", both), "hi", Yellow)
	// Bob loses his sessions, as if an old copy of his files had been put back.
	must(t, bob.update(func(tx *txn) error {
		for _, key := range tx.Keys(prefixOlm) {
			tx.Delete(key)
		}
		return nil
	}))
	strict := both
	strict.Visibility = "joined" // a new key, which Bob can't read
	lost := alice.send("lost", strict)
	bob.refuses(lost, ErrNoKey)
	bob.sync() // starts anew, and says so
	alice.sync()
	strict.Visibility = "invited"
	bob.reads(alice.send("found", strict), "found", Yellow)
}

func TestKeysBetweenOwnDevices(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	alice.bootstrap()
	event := bob.send("before the phone", both)
	alice.reads(event, "before the phone", Yellow)
	phone := w.join("@alice:h", "P")
	phone.refuses(event, ErrNoKey) // asks, but is not verified
	alice.sync()
	phone.refuses(event, ErrNoKey)
	phone.sync()
	signatures, err := alice.SignDevice("P", phone.Fingerprint())
	must(t, err)
	alice.publish(signatures)
	must(t, phone.SetDeviceTrust("@alice:h", "A", Verified, alice.Fingerprint()))
	must(t, phone.update(func(tx *txn) error { // asks again
		for _, key := range tx.Keys(prefixRequest) {
			tx.Delete(key)
		}
		return nil
	}))
	alice.sync()
	phone.refuses(event, ErrNoKey)
	alice.flush("@alice:h")
	alice.sync()
	phone.flush("@bob:h")
	phone.reads(event, "before the phone", Yellow)
}

func TestBackupAndExport(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	event := bob.send("kept", both)
	alice.reads(event, "kept", Yellow)
	key, err := backup.NewKey()
	must(t, err)
	authData, err := alice.NewBackup(key)
	must(t, err)
	must(t, alice.UseBackup("1", authData, key))
	batch, err := alice.BackupNext()
	must(t, err)
	stored, err := json.Marshal(batch)
	must(t, err)
	must(t, alice.MarkBackedUp(batch))
	if again, err := alice.BackupNext(); again != nil || err != nil {
		t.Errorf("it is backed up twice: %v, %v", again, err)
	}
	phone := w.join("@alice:h", "P")
	phone.flush("@bob:h")
	other, err := backup.NewKey()
	must(t, err)
	if err := phone.UseBackup("1", authData, other); !errors.Is(err, ErrOtherBackup) {
		t.Errorf("another key: %v", err)
	}
	if n, err := phone.RestoreBackup("1", other, stored); n != 0 || err != nil {
		t.Errorf("with another key %d, %v", n, err)
	}
	if n, err := phone.RestoreBackup("1", key, stored); n != 1 || err != nil {
		t.Errorf("restored %d, %v", n, err)
	}
	phone.reads(event, "kept", Yellow)
	tablet := w.join("@alice:h", "T")
	exported, err := phone.ExportRoomKeys()
	must(t, err)
	for _, want := range []int{1, 0} {
		if n, err := tablet.ImportRoomKeys(exported); n != want || err != nil {
			t.Errorf("imported %d, %v", n, err)
		}
	}
	tablet.flush("@bob:h")
	tablet.reads(event, "kept", Yellow)
}

func TestNothingLeavesBeforeItIsStored(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	alice.flush(both.Members...)
	_, err := alice.ShareRoomKey(room, both)
	must(t, err)
	before, err := alice.Outbox()
	must(t, err)
	alice.restart()
	after, err := alice.Outbox()
	must(t, err)
	if len(before) != 1 || len(after) != 1 || before[0].Txn != after[0].Txn || string(before[0].Body) != string(after[0].Body) {
		t.Fatalf("%v became %v", before, after)
	}
	one, err := alice.EncryptRoomEvent(room, "m.x", json.RawMessage(`{}`))
	must(t, err)
	alice.restart()
	two, err := alice.EncryptRoomEvent(room, "m.x", json.RawMessage(`{}`))
	must(t, err)
	if string(one) == string(two) {
		t.Error("the same key was used twice")
	}
	alice.deliver()
	bob.reads(alice.send("all arrives", both), "all arrives", Yellow)
}

func TestHostileMessagesStopNothing(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	event := alice.send("hello", both)
	bad := []json.RawMessage{
		json.RawMessage(`5`), json.RawMessage(`{}`), json.RawMessage(`{"type":"m.room.encrypted"}`),
		json.RawMessage(`{"type":"m.room.encrypted","sender":"@x:h","content":{"ciphertext":{"":{"type":9}}}}`),
		json.RawMessage(`{"type":"m.room_key_request","sender":"@bob:h","content":{"action":"request"}}`),
		json.RawMessage(`{"type":"m.room_key.withheld","sender":"@x:h","content":{"algorithm":"m.megolm.v1.aes-sha2","code":"m.blacklisted","room_id":"\u0000","session_id":"x"}}`),
		json.RawMessage(`{"type":"m.room_key","sender":"@alice:h","content":{"algorithm":"m.megolm.v1.aes-sha2"}}`),
	}
	w.inbox[bob.ref()] = slices.Concat(bad, w.inbox[bob.ref()], bad)
	if got := bob.sync(); len(got.Problems) == 0 || got.RoomKeys != 1 {
		t.Errorf("got %+v", got)
	}
	bob.reads(event, "hello", Yellow)
}
