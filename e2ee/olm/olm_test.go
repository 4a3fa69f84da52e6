package olm

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/e2ee/wire"
)

// pair is two accounts with a session that alice started and bob has not seen yet.
func pair(t testing.TB) (alice, bob *Account, out *Session) {
	t.Helper()
	alice, bob = NewAccount(), NewAccount()
	bob.GenerateOneTimeKeys(1)
	keys, _ := bob.Unpublished()
	out, err := alice.NewOutbound(bob.Identity(), keys[0].Key)
	if err != nil {
		t.Fatal(err)
	}
	return alice, bob, out
}

func seal(t testing.TB, s *Session, text string) Message {
	t.Helper()
	m, err := s.Encrypt([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func open2(t testing.TB, s *Session, m Message, want string) {
	t.Helper()
	if got, err := s.Decrypt(m); err != nil || string(got) != want {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}

// reload sends a session through its stored form.
func reload(t testing.TB, s *Session) *Session {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	again := new(Session)
	if err := json.Unmarshal(b, again); err != nil {
		t.Fatal(err)
	}
	return again
}

func TestSession(t *testing.T) {
	alice, bob, a := pair(t)
	first, second := seal(t, a, "one"), seal(t, a, "two")
	if first.Type != TypePreKey || second.Type != TypePreKey {
		t.Fatal("the first messages must be pre-key messages")
	}
	b, plaintext, err := bob.NewInbound(alice.Identity(), second)
	if err != nil || string(plaintext) != "two" {
		t.Fatalf("%q, %v", plaintext, err)
	}
	if a.ID() != b.ID() {
		t.Error("both sides must name the session alike")
	}
	open2(t, b, first, "one")
	if _, _, err := bob.NewInbound(alice.Identity(), first); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("the one-time key was used twice: %v", err)
	}
	for i := range 20 {
		a, b = reload(t, a), reload(t, b)
		text := fmt.Sprint(i)
		m := seal(t, b, text)
		if m.Type != TypeNormal {
			t.Error("whoever received something must send normal messages")
		}
		open2(t, a, m, text)
		open2(t, b, seal(t, a, text), text)
	}
}

func TestOutOfOrder(t *testing.T) {
	alice, bob, a := pair(t)
	b, _, err := bob.NewInbound(alice.Identity(), seal(t, a, "hello"))
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	type sent struct {
		to   *Session
		m    Message
		text string
		at   int
	}
	var late []sent
	for i := range 1000 {
		from, to := a, b
		if random.IntN(2) == 0 {
			from, to = b, a
		}
		text := fmt.Sprint("message ", i)
		late = append(late, sent{to, seal(t, from, text), text, i})
		for len(late) > 4 || len(late) > 0 && random.IntN(3) == 0 {
			k := random.IntN(len(late))
			if late[0].at < i-MaxReceivingChains {
				k = 0 // later still, its chain might be forgotten
			}
			open2(t, late[k].to, late[k].m, late[k].text)
			if _, err := late[k].to.Decrypt(late[k].m); !errors.Is(err, ErrNoKey) && !errors.Is(err, wire.ErrMAC) {
				t.Fatalf("a message was read twice: %v", err)
			}
			late = append(late[:k], late[k+1:]...)
		}
	}
}

func TestLimits(t *testing.T) {
	alice, bob, a := pair(t)
	b, _, err := bob.NewInbound(alice.Identity(), seal(t, a, "0"))
	if err != nil {
		t.Fatal(err)
	}
	var held []Message
	for range MaxGap + 1 {
		held = append(held, seal(t, a, "x"))
	}
	if _, err := reload(t, b).Decrypt(seal(t, a, "too far")); !errors.Is(err, ErrGap) {
		t.Errorf("a gap of %d: %v", MaxGap+1, err)
	}
	open2(t, b, held[MaxGap], "x")
	if n := len(b.s.Skipped); n != MaxSkipped {
		t.Errorf("%d skipped keys are kept", n)
	}
	open2(t, b, held[MaxGap-MaxSkipped], "x")
	if _, err := b.Decrypt(held[MaxGap-MaxSkipped-1]); !errors.Is(err, ErrNoKey) {
		t.Errorf("a key over the limit was kept: %v", err)
	}
	for range MaxReceivingChains + 3 {
		open2(t, a, seal(t, b, "y"), "y")
		open2(t, b, seal(t, a, "z"), "z")
	}
	if n := len(b.s.Receiving); n != MaxReceivingChains {
		t.Errorf("%d receiving chains are kept", n)
	}
	bob.GenerateOneTimeKeys(MaxOneTimeKeys + 1)
	if n := len(bob.s.OneTime); n != MaxOneTimeKeys {
		t.Errorf("%d one-time keys are kept", n)
	}
	if _, err := b.Decrypt(Message{TypeNormal, strings.Repeat("A", MaxMessage+1)}); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("a giant message: %v", err)
	}
}

func TestChangedMessageLeavesSessionUnchanged(t *testing.T) {
	alice, bob, a := pair(t)
	b, _, err := bob.NewInbound(alice.Identity(), seal(t, a, "0"))
	if err != nil {
		t.Fatal(err)
	}
	open2(t, a, seal(t, b, "1"), "1")
	m := seal(t, a, "the message")
	before, _ := json.Marshal(b)
	raw, _ := wire.DecodeBase64(m.Body)
	for i := range raw {
		raw[i] ^= 0x40
		if _, err := b.Decrypt(Message{m.Type, wire.Base64(raw)}); err == nil {
			t.Fatalf("byte %d may be changed", i)
		}
		raw[i] ^= 0x40
	}
	if after, _ := json.Marshal(b); string(after) != string(before) {
		t.Error("a failure changed the session")
	}
	open2(t, b, m, "the message")
}

func TestFallbackKeys(t *testing.T) {
	alice, bob := NewAccount(), NewAccount()
	session := func(key Key) error {
		s, err := alice.NewOutbound(bob.Identity(), key)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = bob.NewInbound(alice.Identity(), seal(t, s, "x"))
		return err
	}
	bob.GenerateFallback()
	_, first := bob.Unpublished()
	bob.MarkPublished([]string{first.ID})
	if _, again := bob.Unpublished(); again != nil {
		t.Error("a published fallback key is still to be published")
	}
	for range 2 {
		if err := session(first.Key); err != nil {
			t.Fatalf("a fallback key serves more than once: %v", err)
		}
	}
	bob.GenerateFallback()
	if err := session(first.Key); err != nil {
		t.Errorf("the fallback key before must still serve: %v", err)
	}
	if !bob.ForgetFallback() || bob.ForgetFallback() {
		t.Error("there was exactly one fallback key to forget")
	}
	if err := session(first.Key); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("a forgotten fallback key: %v", err)
	}
}

func TestHostileKeys(t *testing.T) {
	alice, bob, a := pair(t)
	if _, err := alice.NewOutbound(bob.Identity(), Key{}); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("a one-time key of low order: %v", err)
	}
	mallory := NewAccount()
	if _, _, err := bob.NewInbound(mallory.Identity(), seal(t, a, "x")); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("another sender's pre-key message: %v", err)
	}
	if keys, _ := bob.Unpublished(); len(keys) != 1 {
		t.Error("a refused message used up the one-time key")
	}
}

func FuzzMessages(f *testing.F) {
	alice, bob, a := pair(f)
	m := seal(f, a, "hello")
	raw, _ := wire.DecodeBase64(m.Body)
	f.Add(0, raw)
	b, _, err := bob.NewInbound(alice.Identity(), m)
	if err != nil {
		f.Fatal(err)
	}
	reply := seal(f, b, "hello")
	raw, _ = wire.DecodeBase64(reply.Body)
	f.Add(1, raw)
	state, _ := json.Marshal(a)
	f.Fuzz(func(t *testing.T, kind int, raw []byte) {
		hostile := Message{kind, wire.Base64(raw)}
		s := new(Session)
		if err := json.Unmarshal(state, s); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Decrypt(hostile); err == nil && hostile != reply {
			// Only what bob sealed can open; an equal message in another spelling is still his.
			if s.s.Receiving[0].Index != 1 {
				t.Error("a message that bob never sent was accepted")
			}
		}
		if p, err := ParsePreKey(hostile); err == nil {
			q, err := ParsePreKey(Message{TypePreKey, wire.Base64(p.encode())})
			if err != nil || q.encode() == nil || string(q.encode()) != string(p.encode()) {
				t.Errorf("a pre-key message is not the same when written again: %v", err)
			}
		}
	})
}

func FuzzStoredSession(f *testing.F) {
	_, _, a := pair(f)
	state, _ := json.Marshal(a)
	f.Add(state)
	f.Fuzz(func(t *testing.T, b []byte) {
		s := new(Session)
		if json.Unmarshal(b, s) == nil {
			// Whatever can be read must be usable without a panic.
			s.Encrypt([]byte("x"))
		}
	})
}

func FuzzStoredAccount(f *testing.F) {
	account := NewAccount()
	account.GenerateOneTimeKeys(2)
	account.GenerateFallback()
	state, _ := json.Marshal(account)
	f.Add(state)
	f.Add([]byte(`{"signing":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","identity":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","one_time":[{}]}`))
	_, bob, out := pair(f)
	first := seal(f, out, "x")
	f.Fuzz(func(t *testing.T, b []byte) {
		a := new(Account)
		if json.Unmarshal(b, a) != nil {
			return
		}
		// Whatever can be read must be usable without a panic.
		a.Unpublished()
		a.Sign(b)
		a.NewInbound(bob.Identity(), first)
		if again, err := json.Marshal(a); err != nil || json.Unmarshal(again, new(Account)) != nil {
			t.Errorf("an account can't be read again: %v", err)
		}
	})
}
