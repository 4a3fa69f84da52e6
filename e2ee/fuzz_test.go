package e2ee

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/securecomm/securecomm/e2ee/backup"
	"github.com/securecomm/securecomm/e2ee/keyexport"
	"github.com/securecomm/securecomm/e2ee/olm"
	"github.com/securecomm/securecomm/e2ee/wire"
	"github.com/securecomm/securecomm/homeserver/id"
)

// scene is alice, who knows bob and his identity, and what a server can say to her. Nothing of what the fuzzing
// does to her is kept: each input meets her in the same state.
type scene struct {
	*world
	alice, bob *person
	query      *KeyQuery
	claim      *KeyClaim
	event      json.RawMessage // of bob's, that alice can read
	keyEvent   json.RawMessage // a to-device event with a key that alice has not got yet
	stored     olm.Session     // bob's session with alice, as it is after keyEvent
	before     map[id.UserID]userRecord
}

const secret = "what bob wrote"

func newScene(f *testing.F) *scene {
	w := newWorld(f)
	s := &scene{world: w, alice: w.join("@alice:h", "A"), bob: w.join("@bob:h", "B"), before: map[id.UserID]userRecord{}}
	s.alice.bootstrap()
	s.bob.bootstrap()
	alone := both
	alone.Members = []id.UserID{"@bob:h"}
	s.bob.send("before alice", alone) // so that there is an earlier index than hers
	s.alice.reads(s.bob.send("first", both), "first", Yellow)
	s.event = s.bob.send(secret, both)
	changed := both
	changed.Visibility = "joined"
	s.bob.share(changed)
	s.keyEvent = w.inbox[s.alice.ref()][0]
	_, err := s.alice.ReceiveSync(Sync{Changed: both.Members})
	must(f, err)
	s.query, err = s.alice.UsersToQuery()
	must(f, err)
	s.claim = &KeyClaim{devices: []DeviceRef{s.bob.ref(), {"@carol:h", "C"}}}
	for _, user := range both.Members {
		u, err := loadUser(s.alice.vault, user)
		must(f, err)
		s.before[user] = *u
	}
	o, err := loadOlm(s.bob.vault, "@alice:h", s.alice.identity)
	must(f, err)
	s.stored = *o.Sessions[0]
	return s
}

var errRollback = errors.New("nothing is kept")

// try does something hostile, and checks what must hold whatever it was.
func (s *scene) try(t *testing.T, do func(*txn) error) {
	t.Helper()
	err := s.alice.update(func(tx *txn) error {
		if err := do(tx); err != nil {
			t.Errorf("it stops the machine: %v", err)
		}
		s.check(t, tx)
		return errRollback
	})
	if !errors.Is(err, errRollback) {
		t.Error(err)
	}
}

// check is what no server and no stranger can bring about.
func (s *scene) check(t *testing.T, tx *txn) {
	t.Helper()
	for user, before := range s.before {
		u, err := loadUser(tx, user)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(u.Pinned, before.Pinned) || u.Verified != before.Verified {
			t.Errorf("the pinned identity of %s changed", user)
		}
		for device, old := range before.Devices {
			d := u.Devices[device]
			if d == nil || d.Identity != old.Identity || !d.Signing.Equal(old.Signing) || d.Trust != old.Trust {
				t.Errorf("device %s of %s was exchanged", device, user)
			}
		}
		for device, d := range u.Devices {
			if trust := s.alice.deviceTrust(u, d); trust.Level == Green && before.Devices[device] == nil {
				t.Errorf("device %s of %s became green", device, user)
			}
		}
	}
	if a, err := tx.account(); err != nil || a.Account.Identity() != s.alice.identity || a.Count < 0 {
		t.Errorf("the own account changed: %v", err)
	}
	e := parseEvent(s.event)
	if got, refused, err := tx.decryptRoomEvent(room, &e); err != nil || refused != nil || got.Trust.Level == Green {
		t.Errorf("bob's message is lost or green: %v, %v", refused, err)
	}
}

func parseEvent(raw json.RawMessage) (e roomEvent) {
	if json.Unmarshal(raw, &e) != nil {
		return roomEvent{}
	}
	return e
}

// FuzzSync gives a whole answer to /sync, as far as the machine sees it.
func FuzzSync(f *testing.F) {
	s := newScene(f)
	f.Add([]byte(s.keyEvent), "@bob:h", 3)
	for _, seed := range []string{
		`{"type":"m.room_key_request","sender":"@alice:h","content":{"action":"request","request_id":"1","requesting_device_id":"P","body":{"algorithm":"m.megolm.v1.aes-sha2","room_id":"!room:h","session_id":"x"}}}`,
		`{"type":"m.room_key_request","sender":"@alice:h","content":{"action":"request_cancellation","request_id":"1","requesting_device_id":"P"}}`,
		`{"type":"m.room_key.withheld","sender":"@bob:h","content":{"algorithm":"m.megolm.v1.aes-sha2","code":"m.blacklisted","room_id":"!room:h","session_id":"x"}}`,
		`{"type":"m.room_key","sender":"@bob:h","content":{"algorithm":"m.megolm.v1.aes-sha2","room_id":"!room:h","session_id":"x","session_key":"y"}}`,
		`{"type":"m.secret.request","sender":"@alice:h","content":{"name":"m.cross_signing.master","action":"request","request_id":"1","requesting_device_id":"P"}}`,
		`{"type":"m.key.verification.request","sender":"@bob:h","content":{}}`,
		`{"type":"m.forwarded_room_key","sender":"@alice:h","content":{}}`, `[]`,
	} {
		f.Add([]byte(seed), "@alice:h", -1)
	}
	f.Fuzz(func(t *testing.T, raw []byte, user string, count int) {
		list := []id.UserID{id.UserID(user)}
		s.try(t, func(tx *txn) error {
			return tx.receiveSync(Sync{ToDevice: []json.RawMessage{raw, s.keyEvent}, Changed: list, Left: list,
				OneTimeKeys: map[string]int{oneTimeAlgorithm: count}, UnusedFallback: []string{user}, Next: user}, &Received{})
		})
	})
}

// FuzzPayload is what bob's device says to alice's, encrypted.
func FuzzPayload(f *testing.F) {
	s := newScene(f)
	raw, err := json.Marshal(&s.stored)
	must(f, err)
	o, err := load[outboundRecord](s.bob.vault, prefixOutbound+string(room))
	must(f, err)
	for _, kind := range []string{"m.room_key", "m.forwarded_room_key", "m.dummy"} {
		for _, sender := range []id.UserID{"@bob:h", "@alice:h"} {
			content, err := json.Marshal(roomKey{Algorithm: MegolmAlgorithm, Room: room, Session: o.Session.ID(), SessionKey: o.Session.Key(),
				SenderKey: &s.alice.identity, Signing: s.alice.Fingerprint()})
			must(f, err)
			payload, err := json.Marshal(olmPayload{Type: kind, Content: content, Sender: sender, Recipient: "@alice:h",
				RecipientKeys: map[string]string{"ed25519": s.alice.Fingerprint()}, Keys: map[string]string{"ed25519": s.bob.Fingerprint()}})
			must(f, err)
			f.Add(payload)
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		bobs := new(olm.Session)
		must(t, json.Unmarshal(raw, bobs))
		sealed, err := bobs.Encrypt(payload)
		must(t, err)
		content, err := json.Marshal(olmContent{Algorithm: OlmAlgorithm, SenderKey: s.bob.identity, Ciphertext: map[string]olm.Message{s.alice.IdentityKey(): sealed}})
		must(t, err)
		event, err := json.Marshal(map[string]any{"type": "m.room.encrypted", "sender": "@bob:h", "content": json.RawMessage(content)})
		must(t, err)
		s.try(t, func(tx *txn) error {
			known := tx.Keys(prefixInbound)
			_, err := tx.receive(event, &Received{})
			var p olmPayload
			if json.Unmarshal(payload, &p) == nil && p.Sender != "@bob:h" && len(tx.Keys(prefixInbound)) > len(known) {
				t.Errorf("a key that says it is %s's was taken from bob", p.Sender)
			}
			for _, key := range tx.Keys(prefixInbound) {
				in, err := load[inboundRecord](tx, key)
				if err != nil || !slices.Contains(known, key) && (in.User != "@bob:h" || in.SenderKey != s.bob.identity || in.Indirect) {
					t.Errorf("bob gave a key as %s's: %v", in.User, err)
				}
			}
			return err
		})
	})
}

// FuzzKeysQuery is an answer to /keys/query.
func FuzzKeysQuery(f *testing.F) {
	s := newScene(f)
	f.Add([]byte(s.world.query(s.query)))
	other := newWorld(f) // where a hostile server has made up all keys
	for _, user := range both.Members {
		p := other.join(user, "A")
		other.join(user, "B")
		p.bootstrap()
	}
	f.Add([]byte(other.query(s.query)))
	f.Add([]byte(`{"failures":{"h":{}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var a keysAnswer
		if json.Unmarshal(raw, &a) != nil {
			return
		}
		s.try(t, func(tx *txn) error { return tx.applyQuery(s.query, &a, &KeyChanges{}) })
	})
}

// FuzzKeysClaim is an answer to /keys/claim.
func FuzzKeysClaim(f *testing.F) {
	s := newScene(f)
	for name, key := range s.oneTime[s.bob.ref()] {
		genuine, err := json.Marshal(claimAnswer{each[id.UserID, each[id.DeviceID, map[string]json.RawMessage]]{"@bob:h": {"B": {name: key}}}})
		must(f, err)
		f.Add(genuine)
		break
	}
	f.Add([]byte(`{"one_time_keys":{"@bob:h":{"B":{"signed_curve25519:AAAAAQ":{"key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","signatures":{}}}}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var a claimAnswer
		if json.Unmarshal(raw, &a) != nil {
			return
		}
		s.try(t, func(tx *txn) error {
			before, err := loadOlm(tx, "@bob:h", s.bob.identity)
			must(t, err)
			problems, err := tx.beginAll(s.claim, &a)
			must(t, err)
			after, err := loadOlm(tx, "@bob:h", s.bob.identity)
			if len(after.Sessions) > len(before.Sessions) {
				for _, key := range a.Keys["@bob:h"]["B"] {
					if _, err := s.before["@bob:h"].Devices["B"].OneTimeKey(key); err != nil {
						t.Errorf("a session by a key that bob did not sign, %v", problems)
					}
				}
			}
			return err
		})
	})
}

// FuzzRoomEvent is an encrypted event of a room. Whatever is changed around the ciphertext, nothing but what bob
// wrote may come out, and not as somebody else's.
func FuzzRoomEvent(f *testing.F) {
	s := newScene(f)
	f.Add([]byte(s.event), string(room))
	f.Add([]byte(s.event), "!other:h")
	f.Add(bytes.Replace(s.event, []byte("@bob:h"), []byte("@alice:h"), 1), string(room))
	f.Add(bytes.Replace(s.event, []byte("@bob:h"), []byte("@carol:h"), 1), string(room))
	f.Fuzz(func(t *testing.T, raw []byte, name string) {
		s.try(t, func(tx *txn) error {
			e := parseEvent(raw)
			got, refused, err := tx.decryptRoomEvent(id.RoomID(name), &e)
			if err != nil || refused != nil || got == nil {
				return err
			}
			var content struct{ Body string }
			if json.Unmarshal(got.Content, &content) != nil || content.Body != secret && content.Body != "first" || id.RoomID(name) != room {
				t.Errorf("something else came out")
			}
			if e.Sender != "@bob:h" && got.Trust.Level != Red {
				t.Errorf("it is taken for %s's: %s", e.Sender, got.Trust)
			}
			// Bob's own event may have been noted as another one by this, which check would take for a loss.
			for _, key := range tx.Keys(prefixSeen) {
				tx.Delete(key)
			}
			return nil
		})
	})
}

// FuzzImports are keys from a backup and from a file.
func FuzzImports(f *testing.F) {
	s := newScene(f)
	key, err := backup.NewKey()
	must(f, err)
	sessions, err := s.alice.ExportRoomKeys()
	must(f, err)
	for _, one := range sessions {
		plaintext, err := json.Marshal(one)
		must(f, err)
		f.Add(plaintext, string(one.RoomID), one.SessionID)
		// An earlier index, which makes it a forgery that looks better than the genuine one.
		raw, err := wire.DecodeBase64(one.SessionKey)
		must(f, err)
		binary.BigEndian.PutUint32(raw[1:], 0)
		one.SessionKey = wire.Base64(raw)
		plaintext, err = json.Marshal(one)
		must(f, err)
		f.Add(plaintext, string(one.RoomID), one.SessionID)
	}
	f.Fuzz(func(t *testing.T, plaintext []byte, name, session string) {
		data, err := key.Public().Encrypt(plaintext)
		must(t, err)
		var all backedRooms
		raw, err := json.Marshal(map[string]any{"rooms": map[string]any{name: map[string]any{"sessions": map[string]any{session: backedSession{Data: data}}}}})
		must(t, err)
		must(t, json.Unmarshal(raw, &all))
		s.try(t, func(tx *txn) error {
			_, err := tx.restore("1", key, &all)
			return err
		})
		var one keyexport.Session
		if json.Unmarshal(plaintext, &one) != nil {
			return
		}
		s.try(t, func(tx *txn) error {
			_, err := tx.importRoomKey(one, "")
			return err
		})
	})
}
