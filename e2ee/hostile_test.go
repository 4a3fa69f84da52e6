package e2ee

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/securecomm/securecomm/e2ee/backup"
	"github.com/securecomm/securecomm/e2ee/identity"
	"github.com/securecomm/securecomm/e2ee/keyexport"
	"github.com/securecomm/securecomm/e2ee/megolm"
	"github.com/securecomm/securecomm/e2ee/olm"
	"github.com/securecomm/securecomm/homeserver/id"
)

// claiming is a device with a Curve25519 key that is not its own, and a signing key of its own.
func claiming(t *testing.T, user id.UserID, device id.DeviceID, key string) json.RawMessage {
	t.Helper()
	account := olm.NewAccount()
	described, err := identity.NewDevice(user, device, account)
	must(t, err)
	bare := bytes.Replace(described, []byte(account.Identity().String()), []byte(key), 1)
	var members map[string]json.RawMessage
	must(t, json.Unmarshal(bare, &members))
	delete(members, "signatures")
	bare, err = json.Marshal(members)
	must(t, err)
	signed, err := identity.SignJSON(bare, identity.DeviceSigner(user, device, account))
	must(t, err)
	return signed
}

// TestBorrowedKey has mallory publish a device with bob's key, and let alice believe that its messages don't
// decrypt: what alice and bob have must not suffer.
func TestBorrowedKey(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	alice.reads(bob.send("hi", both), "hi", Yellow)
	w.devices["@mallory:h"] = map[id.DeviceID]json.RawMessage{"M": claiming(t, "@mallory:h", "M", bob.IdentityKey())}
	alice.flush("@mallory:h")
	before, _ := alice.vault.Get(olmKey("@bob:h", bob.identity))
	w.inbox[alice.ref()] = append(w.inbox[alice.ref()], json.RawMessage(fmt.Sprintf(
		`{"type":"m.room.encrypted","sender":"@mallory:h","content":{"algorithm":%q,"sender_key":%q,"ciphertext":{%q:{"type":1,"body":"AwoA"}}}}`,
		OlmAlgorithm, bob.IdentityKey(), alice.IdentityKey())))
	if got := alice.sync(); len(got.Problems) != 1 {
		t.Fatalf("got %+v", got)
	}
	if after, _ := alice.vault.Get(olmKey("@bob:h", bob.identity)); !bytes.Equal(before, after) {
		t.Error("mallory changed the sessions with bob")
	}
	w.devices["@bob:h"]["B2"] = claiming(t, "@bob:h", "B2", bob.IdentityKey())
	w.changed = append(w.changed, "@bob:h")
	query, err := alice.UsersToQuery()
	must(t, err)
	if query == nil {
		alice.ReceiveSync(Sync{Changed: []id.UserID{"@bob:h"}})
		query, err = alice.UsersToQuery()
		must(t, err)
	}
	changes, err := alice.ReceiveKeysQuery(query, w.query(query))
	must(t, err)
	if len(changes.Problems) != 1 || !errors.Is(changes.Problems[0], ErrKeyTaken) {
		t.Errorf("the problems are %v", changes.Problems)
	}
	bob.reads(alice.send("still here", both), "still here", Yellow)
}

// TestReplacedDevice leaves a device out of one answer and gives another one of its name in the next.
func TestReplacedDevice(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	event := bob.send("hi", both)
	alice.reads(event, "hi", Yellow)
	must(t, alice.SetDeviceTrust("@bob:h", "B", Verified, bob.Fingerprint()))
	alice.reads(event, "hi", Green)
	genuine := w.devices["@bob:h"]["B"]
	answer := func(device json.RawMessage) *KeyChanges {
		t.Helper()
		delete(w.devices["@bob:h"], "B")
		if device != nil {
			w.devices["@bob:h"]["B"] = device
		}
		_, err := alice.ReceiveSync(Sync{Changed: []id.UserID{"@bob:h"}})
		must(t, err)
		query, err := alice.UsersToQuery()
		must(t, err)
		changes, err := alice.ReceiveKeysQuery(query, w.query(query))
		must(t, err)
		return changes
	}
	if changes := answer(nil); len(changes.GoneDevices) != 1 {
		t.Errorf("got %+v", changes)
	}
	got, err := alice.DecryptRoomEvent(room, event)
	must(t, err)
	if got.Trust != (Trust{Yellow, ReasonGone}) {
		t.Errorf("a message of a device that is gone is %s", got.Trust)
	}
	other := newWorld(t)
	other.join("@bob:h", "B")
	if changes := answer(other.devices["@bob:h"]["B"]); len(changes.Problems) != 1 || !errors.Is(changes.Problems[0], ErrKeyChanged) {
		t.Errorf("got %+v", changes)
	}
	if known, err := alice.Devices("@bob:h"); err != nil || len(known) != 0 {
		t.Errorf("the devices are %v, %v", known, err)
	}
	answer(genuine)
	alice.reads(event, "hi", Green)
}

// TestOneBadAnswer has mallory's server say of her what can't be read.
func TestOneBadAnswer(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	query, err := alice.UsersToQuery("@bob:h", "@mallory:evil")
	must(t, err)
	answer := bytes.Replace(w.query(query), []byte(`"@mallory:evil":null`), []byte(`"@mallory:evil":5`), 1)
	_, err = alice.ReceiveKeysQuery(query, answer)
	must(t, err)
	claim, err := alice.KeysToClaim("@bob:h", "@mallory:evil")
	must(t, err)
	answer = bytes.Replace(w.claim(claim), []byte(`{"@bob:h"`), []byte(`{"@mallory:evil":{"M":"x","N":5},"@bob:h"`), 1)
	problems, err := alice.ReceiveKeysClaim(claim, answer)
	must(t, errors.Join(append(problems, err)...))
	bob.reads(alice.send("all the same", both), "all the same", Yellow)
}

func TestHostileCounts(t *testing.T) {
	w := newWorld(t)
	alice := w.join("@alice:h", "A")
	for _, count := range []int{-1 << 62, 1 << 62} {
		_, err := alice.ReceiveSync(Sync{OneTimeKeys: map[string]int{oneTimeAlgorithm: count}})
		must(t, err)
		body, err := alice.KeysUpload()
		must(t, err)
		if body != nil && len(body.OneTimeKeys) > targetKeys {
			t.Errorf("%d keys for a count of %d", len(body.OneTimeKeys), count)
		}
	}
}

// TestMadeUpSessions shows more messages of sessions that nobody has than keys are asked for at a time.
func TestMadeUpSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		alice := w.join("@alice:h", "A")
		w.join("@alice:h", "P")
		alice.sync()
		ask := func(n int) {
			t.Helper()
			must(t, alice.update(func(tx *txn) error {
				for i := range n {
					if err := tx.request(room, fmt.Sprint(tx.millis(), i)); err != nil {
						return err
					}
				}
				return nil
			}))
		}
		ask(maxAsked + 10)
		if n := len(alice.vault.Keys(prefixRequest)); n != maxAsked {
			t.Errorf("%d keys are asked for", n)
		}
		time.Sleep(askAgain)
		ask(5)
		if n := len(alice.vault.Keys(prefixRequest)); n != 5 {
			t.Errorf("%d keys are asked for, later", n)
		}
		must(t, alice.update(func(tx *txn) error {
			for range maxKeysPerDay {
				if problem, err := tx.countKey("@bob:h"); problem != nil || err != nil {
					return errors.Join(problem, err)
				}
			}
			if problem, _ := tx.countKey("@bob:h"); problem == nil {
				t.Error("a flood of keys is taken")
			}
			tx.now = tx.now.Add(24 * time.Hour)
			problem, _ := tx.countKey("@bob:h")
			return problem
		}))
	})
}

// TestReplaysOfLongSessions replays each of many messages, and keeps little for them.
func TestReplaysOfLongSessions(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	alice.share(both)
	bob.sync()
	const n = seenPerRecord + 3
	event := func(name string, content json.RawMessage) json.RawMessage {
		raw, err := json.Marshal(map[string]any{"event_id": name, "sender": "@alice:h", "content": content})
		must(t, err)
		return raw
	}
	var contents []json.RawMessage
	for i := range n {
		content, err := alice.EncryptRoomEvent(room, "m.x", json.RawMessage(`{}`))
		must(t, err)
		contents = append(contents, content)
		_, err = bob.DecryptRoomEvent(room, event(fmt.Sprint("$", i), content))
		must(t, err)
	}
	bob.restart()
	for i, content := range contents {
		if _, err := bob.DecryptRoomEvent(room, event(fmt.Sprint("$copy", i), content)); !errors.Is(err, ErrReplayed) {
			t.Errorf("a copy of message %d: %v", i, err)
		}
		if _, err := bob.DecryptRoomEvent(room, event(fmt.Sprint("$", i), content)); err != nil {
			t.Errorf("message %d is not read again: %v", i, err)
		}
	}
	if records := bob.vault.Keys(prefixSeen); len(records) != 2 {
		t.Errorf("%d records for %d messages", len(records), n)
	}
}

// give sends a key to another device, whether or not it is one's own.
func (p *person) give(to *person, room id.RoomID, session *megolm.Outbound) {
	t := p.w.t
	t.Helper()
	must(t, p.update(func(tx *txn) error {
		u, err := loadUser(tx, to.User())
		if err != nil {
			return err
		}
		return tx.tell(&u.Devices[to.Device()].Device, "m.room_key",
			roomKey{Algorithm: MegolmAlgorithm, Room: room, Session: session.ID(), SessionKey: session.Key()})
	}))
}

// TestMessageOfAnotherRoom shows a message in another room than it was written for, where its key is known too.
func TestMessageOfAnotherRoom(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	alice.share(both)
	o, err := load[outboundRecord](alice.vault, prefixOutbound+string(room))
	must(t, err)
	alice.give(bob, "!other:h", o.Session)
	event := alice.send("in this room", both)
	alice.deliver()
	bob.reads(event, "in this room", Yellow)
	if got, err := bob.DecryptRoomEvent("!other:h", event); !errors.Is(err, ErrUndecryptable) {
		t.Errorf("in the other room: %v, %v", got, err)
	}
}

// TestPassedOffSession has a member send another one's key as his own, before its owner does.
func TestPassedOffSession(t *testing.T) {
	w := newWorld(t)
	alice, bob, mallory := w.join("@alice:h", "A"), w.join("@bob:h", "B"), w.join("@mallory:h", "M")
	three := Sharing{Members: []id.UserID{"@alice:h", "@bob:h", "@mallory:h"}, Visibility: "shared"}
	mallory.share(three)
	event := alice.send("mine", three)
	o, err := load[outboundRecord](alice.vault, prefixOutbound+string(room))
	must(t, err)
	mallory.give(bob, room, o.Session)
	genuine := w.inbox[bob.ref()]
	w.inbox[bob.ref()] = nil
	mallory.deliver()
	bob.sync()
	w.inbox[bob.ref()] = genuine
	bob.reads(event, "mine", Yellow)
}

// TestForgedBackup restores a made-up key for a session, whose owner then sends the genuine one.
func TestForgedBackup(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	event := alice.send("genuine", both)
	sessions, err := alice.ExportRoomKeys()
	must(t, err)
	forged := sessions[0]
	made, err := megolm.Import(forged.SessionKey)
	must(t, err)
	raw := []byte(forged.SessionKey)
	if raw[30]++; raw[30] == 'Z'+1 || raw[30] == 'z'+1 || raw[30] == '9'+1 || raw[30] < '0' {
		raw[30] = 'A' // of the alphabet of base64, and another than before
	}
	forged.SessionKey = string(raw)
	key, err := backup.NewKey()
	must(t, err)
	plaintext, err := json.Marshal(forged)
	must(t, err)
	data, err := key.Public().Encrypt(plaintext)
	must(t, err)
	answer, err := json.Marshal(map[string]any{"rooms": map[id.RoomID]any{room: map[string]any{"sessions": map[string]any{made.ID(): backedSession{Data: data}}}}})
	must(t, err)
	if n, err := bob.RestoreBackup("1", key, answer); n != 1 || err != nil {
		t.Fatalf("restored %d, %v", n, err)
	}
	bob.reads(event, "genuine", Yellow)
	if n, err := bob.ImportRoomKeys([]keyexport.Session{forged}); n != 0 || err != nil {
		t.Errorf("a forged key replaced a genuine one: %d, %v", n, err)
	}
	bob.reads(event, "genuine", Yellow)
}

// TestStrangersAreForgotten fills the conversations of a user with devices that are none.
func TestStrangersAreForgotten(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	alice.reads(bob.send("hi", both), "hi", Yellow)
	must(t, alice.update(func(tx *txn) error {
		for range maxConversations - 1 {
			tx.Put(olmKey("@bob:h", olm.NewAccount().Identity()), []byte("{}"))
		}
		return nil
	}))
	second := w.join("@bob:h", "B2")
	alice.reads(second.send("me too", both), "me too", Yellow)
	if n := len(alice.vault.Keys(prefixOlm + "@bob:h\x00")); n != 2 {
		t.Errorf("%d conversations with bob's devices", n)
	}
}

// TestCrashDuringSync goes back to what was on disk before a sync, as often as one was taken in, and takes it in
// again: it is all there, and so it is when the crash came after the sync.
func TestCrashDuringSync(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	bob.flush(both.Members...)
	for i := range 5 {
		often := both
		often.Visibility = fmt.Sprint("changed ", i)
		event := bob.send("kept", often)
		waiting := w.inbox[alice.ref()]
		before, err := os.ReadFile(alice.path)
		must(t, err)
		for crash := range 3 {
			s := Sync{ToDevice: waiting, Next: fmt.Sprint("next", i), OneTimeKeys: map[string]int{oneTimeAlgorithm: 50}}
			got, err := alice.ReceiveSync(s)
			must(t, err)
			if got.RoomKeys != 1 || alice.SyncToken() != s.Next {
				t.Fatalf("got %+v up to %s", got, alice.SyncToken())
			}
			if crash < 2 {
				must(t, alice.vault.Close())
				must(t, os.WriteFile(alice.path, before, 0o600))
				alice.open("@alice:h", "A")
				continue
			}
			alice.restart()
			if got, err = alice.ReceiveSync(s); err != nil || got.RoomKeys != 0 {
				t.Errorf("the same again: %+v, %v", got, err)
			}
		}
		w.inbox[alice.ref()] = nil
		alice.reads(event, "kept", Yellow)
	}
}

// TestNothingReadableOnDisk looks for a message and its keys in all files beside the vault.
func TestNothingReadableOnDisk(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	alice.reads(bob.send("the plaintext of it", both), "the plaintext of it", Yellow)
	account, err := load[accountRecord](alice.vault, keyAccount)
	must(t, err)
	secret, err := json.Marshal(account.Account)
	must(t, err)
	var parts struct{ Signing, Identity string }
	must(t, json.Unmarshal(secret, &parts))
	must(t, filepath.WalkDir(filepath.Dir(alice.path), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", d.Name(), info.Mode().Perm())
		}
		content, err := os.ReadFile(path)
		must(t, err)
		for _, word := range []string{"plaintext", "@bob:h", parts.Signing, parts.Identity} {
			if bytes.Contains(content, []byte(word)) {
				t.Errorf("%s shows secrets", d.Name())
			}
		}
		return nil
	}))
}

// TestUnwedgingIsRare breaks what bob's device says over and over: a new session is begun once an hour.
func TestUnwedgingIsRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
		alice.reads(bob.send("hi", both), "hi", Yellow)
		bob.reads(alice.send("hi", both), "hi", Yellow)
		garbage := json.RawMessage(fmt.Sprintf(
			`{"type":"m.room.encrypted","sender":"@bob:h","content":{"algorithm":%q,"sender_key":%q,"ciphertext":{%q:{"type":1,"body":"AwoA"}}}}`,
			OlmAlgorithm, bob.IdentityKey(), alice.IdentityKey()))
		began := 0
		for range 6 {
			_, err := alice.ReceiveSync(Sync{ToDevice: []json.RawMessage{garbage, garbage}})
			must(t, err)
			claim, err := alice.KeysToClaim()
			must(t, err)
			if claim != nil {
				began++
				_, err = alice.ReceiveKeysClaim(claim, w.claim(claim))
				must(t, err)
			}
			time.Sleep(unwedgeEvery / 3)
		}
		if began != 2 {
			t.Errorf("%d sessions were begun in two hours", began)
		}
	})
}

// TestNoOneTimeKey has a device that nothing can be sent to: it is told so, once, and says why it can't read. Then it
// begins the session itself, and gets the key.
func TestNoOneTimeKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
		w.oneTime[bob.ref()] = nil
		var unread json.RawMessage
		for range 2 {
			withheld := alice.share(both)
			if len(withheld) != 1 || withheld[0].Code != withheldNoOlm {
				t.Fatalf("withheld %v", withheld)
			}
			unread = alice.send("not for bob", both)
		}
		if n := len(w.inbox[bob.ref()]); n != 1 {
			t.Errorf("it was told %d times", n)
		}
		bob.sync()
		for _, event := range []json.RawMessage{unread, bytes.Replace(unread, []byte(`"sender_key"`), []byte(`"left_out"`), 1)} {
			if _, err := bob.DecryptRoomEvent(room, event); !errors.Is(err, ErrNoKey) || !strings.HasSuffix(err.Error(), withheldWords[withheldNoOlm]) {
				t.Errorf("bob is told %v", err)
			}
		}
		bob.flush("@alice:h") // who was not known when the note came
		_, err := bob.DecryptRoomEvent(room, unread)
		if !errors.Is(err, ErrNoKey) {
			t.Error(err)
		}
		w.oneTime[bob.ref()] = nil // bob has begun a session: alice needs no key of his
		bob.flush()
		bob.reads(alice.send("now", both), "now", Yellow)
		if notes := bob.vault.Keys(prefixWithheld); len(notes) != 0 {
			t.Errorf("still noted: %q", notes)
		}
	})
}

// TestNotesOfStrangers has ever new keys be unable to reach a device: their notes have a limit.
func TestNotesOfStrangers(t *testing.T) {
	w := newWorld(t)
	alice := w.join("@alice:h", "A")
	must(t, alice.update(func(tx *txn) error {
		for i := range maxWithheld - 1 {
			tx.Put(prefixWithheld+fmt.Sprint(i), []byte(`"m.no_olm"`))
		}
		return nil
	}))
	for i, want := range []int{maxWithheld, maxWithheld, maxWithheld} {
		key := olm.NewAccount().Identity().String()
		if i == 2 {
			key = "no key"
		}
		_, err := alice.ReceiveSync(Sync{ToDevice: []json.RawMessage{json.RawMessage(fmt.Sprintf(
			`{"type":"m.room_key.withheld","sender":"@m:h","content":{"algorithm":%q,"code":"m.no_olm","sender_key":%q}}`, MegolmAlgorithm, key))}})
		must(t, err)
		if n := len(alice.vault.Keys(prefixWithheld)); n != want {
			t.Errorf("%d notes are kept, not %d", n, want)
		}
	}
}

// TestCrashDuringUpload has the answer to an upload of keys lost, with the process or without: the same keys go out again.
func TestCrashDuringUpload(t *testing.T) {
	p := &person{w: newWorld(t), path: filepath.Join(t.TempDir(), "vault")}
	p.open("@alice:h", "A")
	t.Cleanup(func() { p.vault.Close() })
	var before []byte
	for range 3 {
		upload, err := p.KeysUpload()
		must(t, err)
		now, err := json.Marshal(upload)
		must(t, err)
		if before != nil && !bytes.Equal(before, now) {
			t.Error("other keys go out")
		}
		if len(upload.OneTimeKeys) != targetKeys || len(upload.FallbackKeys) != 1 {
			t.Errorf("%d keys go out", len(upload.OneTimeKeys))
		}
		before = now
		p.restart()
	}
}

// TestVaultPutBack puts an older copy of a vault in its place. No key ID may come again with another key, and when the
// device reads what it sent itself it must give up every key that it may have used.
func TestVaultPutBack(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.join("@alice:h", "A"), w.join("@bob:h", "B")
	bob.reads(alice.send("one", both), "one", Yellow)
	alice.reads(bob.send("two", both), "two", Yellow)
	copied, err := os.ReadFile(alice.path)
	must(t, err)
	later := alice.send("three", both)
	bob.reads(later, "three", Yellow)
	must(t, alice.update(func(tx *txn) error { return tx.renewKeys() }))
	alice.flush()
	known := maps.Clone(w.oneTime[alice.ref()])

	must(t, os.WriteFile(alice.path, copied, 0o600))
	alice.restart()
	got, err := alice.DecryptRoomEvent(room, later)
	must(t, err)
	if !got.PutBack || len(alice.vault.Keys(prefixOutbound)) != 0 {
		t.Errorf("it is not noticed: %+v", got)
	}
	upload, err := alice.KeysUpload()
	must(t, err)
	if upload == nil || len(upload.OneTimeKeys) < targetKeys || len(upload.FallbackKeys) != 1 {
		t.Fatalf("uploads %+v", upload)
	}
	for name := range upload.OneTimeKeys {
		if _, again := known[name]; again {
			t.Errorf("%s comes again", name)
		}
	}
	conversation, err := loadOlm(alice.vault, "@bob:h", bob.identity)
	must(t, err)
	used := conversation.Sessions[0]
	fresh := alice.send("four", both)
	if session(t, fresh) == session(t, later) {
		t.Error("the session goes on")
	}
	if conversation, err = loadOlm(alice.vault, "@bob:h", bob.identity); err != nil || conversation.Sessions[0].ID() == used.ID() {
		t.Errorf("the conversation goes on: %v", err)
	}
	bob.reads(fresh, "four", Yellow)
	if got, err := alice.DecryptRoomEvent(room, fresh); err != nil || got.PutBack {
		t.Errorf("noticed again: %+v, %v", got, err)
	}
}
