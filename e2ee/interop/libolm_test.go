package interop

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/securecomm/securecomm/e2ee/backup"
	"github.com/securecomm/securecomm/e2ee/megolm"
	"github.com/securecomm/securecomm/e2ee/olm"
)

// olmSide is one side of an Olm session, ours or libolm's.
type olmSide struct {
	encrypt func(text string) olm.Message
	decrypt func(olm.Message) (string, error)
}

func ours(t testing.TB, s *olm.Session) olmSide {
	return olmSide{
		encrypt: func(text string) olm.Message {
			t.Helper()
			// Through the stored form each time, as the machine does it.
			raw, err := json.Marshal(s)
			must(t, err)
			must(t, json.Unmarshal(raw, s))
			m, err := s.Encrypt([]byte(text))
			must(t, err)
			return m
		},
		decrypt: func(m olm.Message) (string, error) {
			text, err := s.Decrypt(m)
			return string(text), err
		},
	}
}

func theirs(o *object) olmSide {
	return olmSide{
		encrypt: func(text string) (m olm.Message) {
			o.p.t.Helper()
			o.call("encrypt", &m, text)
			return m
		},
		decrypt: func(m olm.Message) (text string, err error) {
			err = o.try("decrypt", &text, m.Type, m.Body)
			return text, err
		},
	}
}

// libolmAccount is an account of libolm with its keys.
type libolmAccount struct {
	*object
	identity, oneTime, fallback olm.Key
}

func newLibolmAccount(p *peer) *libolmAccount {
	p.t.Helper()
	a := &libolmAccount{object: p.object("Account")}
	a.call("create", nil)
	a.call("generate_one_time_keys", nil, 1)
	a.call("generate_fallback_key", nil)
	var keys struct{ Curve25519 olm.Key }
	must(p.t, json.Unmarshal([]byte(a.text("identity_keys")), &keys))
	a.identity = keys.Curve25519
	for name, key := range map[string]*olm.Key{"one_time_keys": &a.oneTime, "fallback_key": &a.fallback} {
		var list struct{ Curve25519 map[string]olm.Key }
		must(p.t, json.Unmarshal([]byte(a.text(name)), &list))
		for _, *key = range list.Curve25519 {
		}
	}
	a.call("mark_keys_as_published", nil)
	return a
}

// fromUs starts a session on our side.
func (a *libolmAccount) fromUs(key olm.Key) (us, them olmSide) {
	t := a.p.t
	t.Helper()
	account := olm.NewAccount()
	session, err := account.NewOutbound(a.identity, key)
	must(t, err)
	us = ours(t, session)
	first := us.encrypt("first")
	inbound := a.p.object("Session")
	inbound.call("create_inbound_from", nil, a.object, account.Identity(), first.Body)
	if id := inbound.text("session_id"); id != session.ID() {
		t.Errorf("libolm calls the session %s, we %s", id, session.ID())
	}
	them = theirs(inbound)
	mustRead(t, them, first, "first")
	return us, them
}

// toUs starts a session on libolm's side.
func (a *libolmAccount) toUs() (us, them olmSide) {
	t := a.p.t
	t.Helper()
	account := olm.NewAccount()
	account.GenerateOneTimeKeys(1)
	keys, _ := account.Unpublished()
	outbound := a.p.object("Session")
	outbound.call("create_outbound", nil, a.object, account.Identity(), keys[0].Key)
	them = theirs(outbound)
	session, text, err := account.NewInbound(a.identity, them.encrypt("first"))
	must(t, err)
	if string(text) != "first" {
		t.Fatalf("read %q", text)
	}
	if id := outbound.text("session_id"); id != session.ID() {
		t.Errorf("libolm calls the session %s, we %s", id, session.ID())
	}
	return ours(t, session), them
}

func mustRead(t testing.TB, s olmSide, m olm.Message, want string) {
	t.Helper()
	if got, err := s.decrypt(m); err != nil || got != want {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}

func TestLibolmOlm(t *testing.T) {
	p := startPeer(t)
	a := newLibolmAccount(p)
	t.Run("we start", func(t *testing.T) {
		us, them := a.fromUs(a.oneTime)
		converse(t, us, them)
	})
	t.Run("they start", func(t *testing.T) {
		us, them := a.toUs()
		converse(t, them, us)
	})
	t.Run("fallback key", func(t *testing.T) {
		for range 3 {
			us, them := a.fromUs(a.fallback)
			converse(t, us, them)
		}
	})
}

// converse has the starter's side write a few pre-key messages, and both a long dialogue with bursts that
// arrive out of order, some after the other side has answered.
func converse(t *testing.T, starter, other olmSide) {
	t.Helper()
	for i := range 5 {
		m := starter.encrypt(fmt.Sprint("pre-key ", i))
		if m.Type != olm.TypePreKey {
			t.Fatalf("message %d has type %d", i, m.Type)
		}
		mustRead(t, other, m, fmt.Sprint("pre-key ", i))
		if _, err := other.decrypt(m); err == nil {
			t.Fatal("a message is read twice")
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	type letter struct {
		olm.Message
		to   olmSide
		text string
		turn int
	}
	var late []letter
	from, to := other, starter
	for turn := range 120 {
		var burst []letter
		for i := range 1 + random.IntN(4) {
			text := fmt.Sprintf("turn %d, message %d", turn, i)
			burst = append(burst, letter{from.encrypt(text), to, text, turn})
		}
		random.Shuffle(len(burst), func(i, j int) { burst[i], burst[j] = burst[j], burst[i] })
		for i, l := range burst {
			if i > 0 && random.IntN(4) == 0 {
				late = append(late, l)
				continue
			}
			mustRead(t, l.to, l.Message, l.text)
		}
		// Both sides forget the keys of a chain five chains later, which is ten turns.
		for len(late) > 0 && turn-late[0].turn >= 6 {
			mustRead(t, late[0].to, late[0].Message, late[0].text)
			late = late[1:]
		}
		from, to = to, from
	}
	var hundred []letter
	for i := range 40 {
		text := fmt.Sprint("of a long burst ", i)
		hundred = append(hundred, letter{from.encrypt(text), to, text, 0})
	}
	random.Shuffle(len(hundred), func(i, j int) { hundred[i], hundred[j] = hundred[j], hundred[i] })
	for _, l := range hundred {
		mustRead(t, l.to, l.Message, l.text)
	}
}

func TestLibolmMegolm(t *testing.T) {
	p := startPeer(t)
	t.Run("we write", func(t *testing.T) {
		out := megolm.NewOutbound()
		in := p.object("InboundGroupSession")
		in.call("create", nil, out.Key())
		if id := in.text("session_id"); id != out.ID() {
			t.Errorf("libolm calls the session %s, we %s", id, out.ID())
		}
		var messages []string
		for i := range 300 {
			m, err := out.Encrypt([]byte(fmt.Sprint(i)))
			must(t, err)
			messages = append(messages, m)
		}
		for _, i := range rand.New(rand.NewPCG(5, 6)).Perm(len(messages)) {
			var got struct {
				Plaintext string `json:"plaintext"`
				Index     int    `json:"message_index"`
			}
			in.call("decrypt", &got, messages[i])
			if got.Plaintext != fmt.Sprint(i) || got.Index != i {
				t.Fatalf("message %d is %+v", i, got)
			}
		}
		broken := []byte(messages[7])
		broken[40] ^= 1
		if err := in.try("decrypt", nil, string(broken)); err == nil {
			t.Error("a changed message is read")
		}
	})
	t.Run("they write", func(t *testing.T) {
		out := p.object("OutboundGroupSession")
		out.call("create", nil)
		in, err := megolm.NewInbound(out.text("session_key"))
		must(t, err)
		var messages []string
		for i := range 300 {
			messages = append(messages, out.text("encrypt", fmt.Sprint(i)))
		}
		for _, i := range rand.New(rand.NewPCG(7, 8)).Perm(len(messages)) {
			text, index, err := in.Decrypt(messages[i])
			if err != nil || string(text) != fmt.Sprint(i) || int(index) != i {
				t.Fatalf("message %d is %q, %d, %v", i, text, index, err)
			}
		}
		later, err := megolm.NewInbound(out.text("session_key"))
		must(t, err)
		if _, _, err := later.Decrypt(messages[299]); err == nil {
			t.Error("a message from before the key is read")
		}
		text, index, err := later.Decrypt(out.text("encrypt", "next"))
		if err != nil || string(text) != "next" || index != 300 {
			t.Errorf("got %q, %d, %v", text, index, err)
		}
	})
	t.Run("exports", func(t *testing.T) { exports(t, p) })
}

// exports compares the ratchets at indexes on and around the boundaries of their parts.
func exports(t *testing.T, p *peer) {
	out := megolm.NewOutbound()
	us, err := megolm.NewInbound(out.Key())
	must(t, err)
	them := p.object("InboundGroupSession")
	them.call("create", nil, out.Key())
	random := rand.New(rand.NewPCG(9, 10))
	indexes := []uint32{0, 1, 255, 256, 257, 65535, 65536, 65537, 1<<24 - 1, 1 << 24, 1<<24 + 1, 1<<31 - 1}
	// libolm takes an index for one of the past when it is more than half of all indexes away.
	for range 50 {
		indexes = append(indexes, random.Uint32N(1<<31))
	}
	for _, index := range indexes {
		mine, err := us.Export(index)
		must(t, err)
		if yours := them.text("export_session", index); mine != yours {
			t.Fatalf("the exports at %d differ", index)
		}
		half := random.Uint32N(max(index, 1))
		early, err := us.Export(half)
		must(t, err)
		imported := p.object("InboundGroupSession")
		imported.call("import_session", nil, early)
		if yours := imported.text("export_session", index); mine != yours {
			t.Fatalf("the exports at %d by way of %d differ", index, half)
		}
		imported.call("free", nil)
	}
}

func TestLibolmBackup(t *testing.T) {
	p := startPeer(t)
	const session = `{"algorithm":"m.megolm.v1.aes-sha2","session_key":"ÄÖÜ"}`
	key, err := backup.NewKey()
	must(t, err)
	them := p.object("PkDecryption")
	if public := them.text("init_with_private_key", bytesArgument(key.Bytes())); public != key.Public().String() {
		t.Errorf("libolm's public key is %s, ours %s", public, key.Public())
	}
	sealed, err := key.Public().Encrypt([]byte(session))
	must(t, err)
	if got := them.text("decrypt", sealed.Ephemeral, sealed.MAC, sealed.Ciphertext); got != session {
		t.Errorf("libolm reads %q", got)
	}
	encryption := p.object("PkEncryption")
	encryption.call("set_recipient_key", nil, key.Public().String())
	var back backup.Data
	encryption.call("encrypt", &back, session)
	if got, err := key.Decrypt(back); err != nil || string(got) != session {
		t.Errorf("we read %q, %v", got, err)
	}
}
