package megolm

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/e2ee/wire"
)

// naive is the definition of the ratchet in the specification, one step at a time.
func naive(r ratchet) ratchet {
	r.index++
	switch i := r.index; {
	case i%(1<<24) == 0:
		r.reseed(0)
	case i%(1<<16) == 0:
		r.reseed(1)
	case i%(1<<8) == 0:
		r.reseed(2)
	default:
		r.reseed(3)
	}
	return r
}

func (r *ratchet) reseed(from int) {
	seed := r.parts[from]
	for k := from; k < parts; k++ {
		copy(r.parts[k][:], wire.HMAC(seed[:], []byte{byte(k)}))
	}
}

func TestAdvance(t *testing.T) {
	for _, start := range []uint32{0, 250, 1<<16 - 300, 1<<24 - 300, 5<<24 + 7<<16 - 2} {
		first := NewOutbound().ratchet
		first.index = start
		want := first
		for range 700 {
			want = naive(want)
			got := first
			if got.advance(want.index); got != want {
				t.Fatalf("from %d to %d", start, want.index)
			}
		}
	}
	// Any way of getting somewhere leads to the same.
	random := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		direct := NewOutbound().ratchet
		detour := direct
		to, half := random.Uint32(), uint32(0)
		half = uint32(random.Uint64N(uint64(to) + 1))
		detour.advance(half)
		detour.advance(to)
		if direct.advance(to); direct != detour {
			t.Fatalf("to %d by way of %d", to, half)
		}
	}
}

func TestSession(t *testing.T) {
	out := NewOutbound()
	first := encrypt(t, out, "zero")
	in, err := NewInbound(out.Key())
	if err != nil || in.ID() != out.ID() || in.FirstIndex() != 1 || !in.Signed() {
		t.Fatal(in, err)
	}
	if _, _, err := in.Decrypt(first); !errors.Is(err, ErrUnknownIndex) {
		t.Errorf("a message before the key: %v", err)
	}
	var sent []string
	for range 600 {
		sent = append(sent, encrypt(t, out, "text"))
		if out.Index()%100 == 0 {
			reload(t, out)
			reload(t, in)
		}
	}
	for _, i := range rand.Perm(len(sent)) {
		plaintext, index, err := in.Decrypt(sent[i])
		if err != nil || string(plaintext) != "text" || int(index) != i+1 {
			t.Fatalf("message %d: %q, %d, %v", i+1, plaintext, index, err)
		}
	}
}

func TestExport(t *testing.T) {
	out := NewOutbound()
	in, err := NewInbound(out.Key())
	if err != nil {
		t.Fatal(err)
	}
	zero, one := encrypt(t, out, "0"), encrypt(t, out, "1")
	key, err := in.Export(1)
	if err != nil {
		t.Fatal(err)
	}
	late, err := Import(key)
	if err != nil || late.Signed() {
		t.Fatal(late, err)
	}
	if _, _, err := late.Decrypt(zero); !errors.Is(err, ErrUnknownIndex) {
		t.Errorf("a message before the export: %v", err)
	}
	if _, _, err := late.Decrypt(one); err != nil {
		t.Error(err)
	}
	if again, err := late.Export(1); err != nil || again != key {
		t.Errorf("an export changes when imported and exported: %v", err)
	}
	if _, err := late.Export(0); !errors.Is(err, ErrUnknownIndex) {
		t.Errorf("winding back: %v", err)
	}
	if !in.Connected(late) || !late.Connected(in) {
		t.Error("a session is not connected to its own export")
	}
	forged := *late
	forged.first.parts[3][0] ^= 1
	if in.Connected(&forged) || forged.Connected(in) {
		t.Error("a forged export is connected")
	}
}

func TestRefusals(t *testing.T) {
	out := NewOutbound()
	in, err := NewInbound(out.Key())
	if err != nil {
		t.Fatal(err)
	}
	m := encrypt(t, out, "text")
	raw, _ := wire.DecodeBase64(m)
	for i := range raw {
		raw[i] ^= 0x10
		if _, _, err := in.Decrypt(wire.Base64(raw)); err == nil {
			t.Fatalf("byte %d may be changed", i)
		}
		raw[i] ^= 0x10
	}
	key, _ := wire.DecodeBase64(out.Key())
	for _, i := range []int{0, 3, 60, 150, 200} {
		key[i] ^= 1
		if _, err := NewInbound(wire.Base64(key)); err == nil {
			t.Errorf("byte %d of a session key may be changed", i)
		}
		key[i] ^= 1
	}
	if _, err := NewInbound(wire.Base64(key[:len(key)-1])); !errors.Is(err, wire.ErrMalformed) {
		t.Error("a short session key was taken")
	}
	if _, _, err := in.Decrypt(strings.Repeat("A", MaxMessage+1)); !errors.Is(err, wire.ErrMalformed) {
		t.Error("a giant message was looked at")
	}
	out.ratchet.advance(math.MaxUint32)
	if _, err := out.Encrypt(nil); err == nil {
		t.Error("the counter wrapped around")
	}
}

func encrypt(t testing.TB, s *Outbound, text string) string {
	t.Helper()
	m, err := s.Encrypt([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func reload(t testing.TB, s any) {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, s); err != nil {
		t.Fatal(err)
	}
}

func FuzzMessage(f *testing.F) {
	out := NewOutbound()
	in, err := NewInbound(out.Key())
	if err != nil {
		f.Fatal(err)
	}
	genuine, _ := wire.DecodeBase64(encrypt(f, out, "text"))
	f.Add(genuine)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, _, err := in.Decrypt(wire.Base64(raw)); err == nil && string(raw) != string(genuine) {
			t.Error("a message that was never sent decrypts")
		}
	})
}

func FuzzImport(f *testing.F) {
	out := NewOutbound()
	shared, _ := wire.DecodeBase64(out.Key())
	f.Add(shared)
	f.Add(append([]byte{exportVersion}, shared[1:exportSize]...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if in, err := NewInbound(wire.Base64(raw)); err == nil && in.FirstIndex() < math.MaxUint32 {
			in.Decrypt(wire.Base64(raw))
		}
		in, err := Import(wire.Base64(raw))
		if err != nil {
			return
		}
		if again, err := in.Export(in.FirstIndex()); err != nil || again != wire.Base64(raw) {
			t.Errorf("an import is not the same when exported: %v", err)
		}
	})
}

// FuzzStored has stored sessions that something has damaged.
func FuzzStored(f *testing.F) {
	out := NewOutbound()
	in, err := NewInbound(out.Key())
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []any{out, in} {
		state, _ := json.Marshal(s)
		f.Add(state)
	}
	message := encrypt(f, out, "text")
	f.Fuzz(func(t *testing.T, b []byte) {
		if s := new(Inbound); json.Unmarshal(b, s) == nil {
			if _, _, err := s.Decrypt(message); err == nil && s.ID() != out.ID() {
				t.Error("a message of another session decrypts")
			}
		}
		if s := new(Outbound); json.Unmarshal(b, s) == nil {
			index := s.Index()
			if _, err := s.Encrypt([]byte("x")); err == nil && s.Index() != index+1 {
				t.Error("the same key would be used again")
			}
		}
	})
}
