package interop

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/securecomm/securecomm/e2ee/identity"
	"github.com/securecomm/securecomm/e2ee/olm"
	"github.com/securecomm/securecomm/e2ee/wire"
	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	alice = id.UserID("@alice:one.example")
	bob   = id.UserID("@bob:two.example")

	noteType = "com.example.note"
)

// bare is a device made by hand, whose Olm sessions the test holds itself. vodozemac's own are out of reach behind
// their machine, so the ratchets meet in to-device events.
type bare struct {
	h       *hub
	at      address
	account *olm.Account
	oneTime olm.Key
}

func newBare(h *hub, user id.UserID, device id.DeviceID) *bare {
	h.t.Helper()
	b := &bare{h: h, at: address{user, device}, account: olm.NewAccount()}
	b.account.GenerateOneTimeKeys(1)
	keys, _ := b.account.Unpublished()
	b.oneTime = keys[0].Key
	described, err := identity.NewDevice(user, device, b.account)
	must(h.t, err)
	signed, err := identity.NewOneTimeKey(b.oneTime, false, identity.DeviceSigner(user, device, b.account))
	must(h.t, err)
	h.uploadKeys(b.at, h.json(args{"device_keys": json.RawMessage(described),
		"one_time_keys": args{"signed_curve25519:" + keys[0].ID: json.RawMessage(signed)}}))
	return b
}

type note struct {
	Type          string            `json:"type"`
	Content       textContent       `json:"content"`
	Sender        id.UserID         `json:"sender"`
	Recipient     id.UserID         `json:"recipient"`
	RecipientKeys map[string]string `json:"recipient_keys"`
	Keys          map[string]string `json:"keys"`
}

// side is our end of a session, which speaks in notes.
func (b *bare) side(s *olm.Session, to *their) olmSide {
	raw := ours(b.h.t, s)
	return olmSide{
		encrypt: func(text string) olm.Message {
			return raw.encrypt(string(b.h.json(note{noteType, textContent{text}, b.at.user, to.at.user,
				map[string]string{"ed25519": to.fingerprint()}, map[string]string{"ed25519": wire.Base64(b.account.Signing())}})))
		},
		decrypt: func(m olm.Message) (string, error) {
			text, err := raw.decrypt(m)
			if err != nil {
				return "", err
			}
			return b.text(to, text), nil
		},
	}
}

// text is the text of a note that their device wrote to us.
func (b *bare) text(from *their, plaintext string) string {
	b.h.t.Helper()
	var n note
	must(b.h.t, json.Unmarshal([]byte(plaintext), &n))
	if n.Type != noteType || n.Sender != from.at.user || n.Recipient != b.at.user || n.Keys["ed25519"] != from.fingerprint() ||
		n.RecipientKeys["ed25519"] != wire.Base64(b.account.Signing()) {
		b.h.t.Fatalf("a note of %s from %s to %s", n.Type, n.Sender, n.Recipient)
	}
	return n.Content.Body
}

// side is vodozemac's end of a session with a bare device.
func (o *their) side(with *bare) olmSide {
	t := o.h.t
	return olmSide{
		encrypt: func(text string) olm.Message {
			t.Helper()
			var content struct{ Ciphertext map[string]olm.Message }
			o.do("seal", args{"user": with.at.user, "device": with.at.device, "type": noteType, "content": textContent{text}}, &content)
			return content.Ciphertext[with.account.Identity().String()]
		},
		decrypt: func(m olm.Message) (string, error) {
			t.Helper()
			content := args{"algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": with.account.Identity(),
				"ciphertext": map[string]olm.Message{o.keys.Curve25519: m}}
			got := o.receive([]json.RawMessage{o.h.json(args{"type": "m.room.encrypted", "sender": with.at.user, "content": content})})
			if len(got) != 1 || got[0].Kind != "Decrypted" {
				return "", fmt.Errorf("it became %v", got)
			}
			var event struct{ Content textContent }
			must(t, json.Unmarshal(got[0].Event, &event))
			return event.Content.Body, nil
		},
	}
}

// meet lets their machine know the bare device.
func (o *their) meet(b *bare) {
	o.h.t.Helper()
	o.sync()
	o.do("track", args{"members": []id.UserID{b.at.user}}, nil)
	o.flush()
}

// key is a one-time key of their device, or its fallback key.
func (o *their) key(fallback bool) (key olm.Key) {
	o.h.t.Helper()
	from := o.h.oneTime[o.at]
	if fallback {
		from = o.h.fallback[o.at]
	}
	for name, raw := range from {
		var signed struct{ Key olm.Key }
		must(o.h.t, json.Unmarshal(raw, &signed))
		if !fallback {
			delete(from, name)
		}
		return signed.Key
	}
	o.h.t.Fatal("it has no key")
	return key
}

// begin starts a session on our side.
func (b *bare) begin(to *their, key olm.Key) (us, them olmSide) {
	b.h.t.Helper()
	identityKey, err := olm.ParseKey(to.keys.Curve25519)
	must(b.h.t, err)
	session, err := b.account.NewOutbound(identityKey, key)
	must(b.h.t, err)
	us, them = b.side(session, to), to.side(b)
	mustRead(b.h.t, them, us.encrypt("first"), "first")
	return us, them
}

func TestVodozemacOlm(t *testing.T) {
	p := startPeer(t)
	t.Run("we start", func(t *testing.T) {
		h := newHub(t)
		them, us := newTheir(h, p, alice, "STARTED"), newBare(h, bob, "BARE")
		them.meet(us)
		one, other := us.begin(them, them.key(false))
		converse(t, one, other)
	})
	t.Run("they start", func(t *testing.T) {
		h := newHub(t)
		them, us := newTheir(h, p, alice, "STARTS"), newBare(h, bob, "BARE")
		them.meet(us)
		var claim *request
		them.do("missing", args{"members": []id.UserID{bob}}, &claim)
		them.carry(claim)
		theirSide := them.side(us)
		key, err := olm.ParseKey(them.keys.Curve25519)
		must(t, err)
		session, text, err := us.account.NewInbound(key, theirSide.encrypt("first"))
		must(t, err)
		if us.text(them, string(text)) != "first" {
			t.Fatalf("read %q", text)
		}
		converse(t, theirSide, us.side(session, them))
	})
	t.Run("fallback key", func(t *testing.T) {
		h := newHub(t)
		them := newTheir(h, p, alice, "FALLBACK")
		key := them.key(true)
		for i := range 3 {
			us := newBare(h, id.UserID(fmt.Sprintf("@bob%d:two.example", i)), "BARE")
			them.meet(us)
			one, other := us.begin(them, key)
			converse(t, one, other)
		}
	})
}
