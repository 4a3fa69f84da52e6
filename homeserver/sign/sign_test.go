package sign

import (
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"pgregory.net/rapid"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
)

// seed is SIGNING_KEY_SEED of the appendices, "Cryptographic Test Vectors".
const seed = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"

func vectorKey(t *testing.T) Key {
	t.Helper()
	b, err := DecodeBase64(seed)
	if err != nil {
		t.Fatal(err)
	}
	return Key{ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(b)}
}

func TestJSON(t *testing.T) {
	key := vectorKey(t)
	for in, want := range map[string]string{
		`{}`:                       `{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}`,
		`{"one": 1, "two": "Two"}`: `{"one":1,"signatures":{"domain":{"ed25519:1":"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}`,
	} {
		got, err := JSON([]byte(in), "domain", key)
		if err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v", in, got, err)
		}
		if err := VerifyJSON(got, "domain", key.ID, key.Public()); err != nil {
			t.Errorf("%s: %v", in, err)
		}
	}
	for _, bad := range []string{`[]`, `1`, `{"signatures":[]}`, `{"signatures":{"domain":1}}`, `{"a":1.5}`, `{"a"`, ``} {
		if got, err := JSON([]byte(bad), "domain", key); !errors.Is(err, canonicaljson.ErrInvalid) {
			t.Errorf("%s was signed as %s, %v", bad, got, err)
		}
	}
}

func TestJSONKeepsTheRest(t *testing.T) {
	key := vectorKey(t)
	once, err := JSON([]byte(`{"unsigned":{"x":1},"a":1,"signatures":{"z":{"ed25519:9":"AA"},"domain":{"ed25519:0":"BB","ed25519:1":"old"}}}`), "domain", key)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := JSON([]byte(`{"a":1}`), "domain", key)
	if err != nil {
		t.Fatal(err)
	}
	sig, _ := canonicaljson.String(get(get(canonicaljson.Get(bare, "signatures"), "domain"), "ed25519:1"))
	want := `{"a":1,"signatures":{"domain":{"ed25519:0":"BB","ed25519:1":"` + sig + `"},"z":{"ed25519:9":"AA"}},"unsigned":{"x":1}}`
	if string(once) != want {
		t.Errorf("got %s, want %s", once, want)
	}
	if got := KeyIDs(once, "domain"); len(got) != 2 || got[0] != "ed25519:0" || got[1] != "ed25519:1" {
		t.Errorf("key IDs: %v", got)
	}
	if got := KeyIDs([]byte(`{"signatures":{"h":{"curve25519:x":"","ed25519:":"","ed25519":"","ed25519:a":""}}}`), "h"); len(got) != 1 || got[0] != "ed25519:a" {
		t.Errorf("key IDs: %v", got)
	}
}

func TestVerifyJSON(t *testing.T) {
	key := vectorKey(t)
	other, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := JSON([]byte(`{"a":1}`), "domain", key)
	if err != nil {
		t.Fatal(err)
	}
	changed := []byte(strings.Replace(string(signed), `"a":1`, `"a":2`, 1))
	padded := []byte(strings.Replace(string(signed), `"}}`, `=="}}`, 1))
	for _, c := range []struct {
		what   string
		obj    []byte
		server string
		keyID  id.KeyID
		pub    PublicKey
		want   error
	}{
		{"good", signed, "domain", key.ID, key.Public(), nil},
		{"padded", padded, "domain", key.ID, key.Public(), nil},
		{"other server", signed, "other", key.ID, key.Public(), ErrNotSigned},
		{"other key ID", signed, "domain", "ed25519:2", key.Public(), ErrNotSigned},
		{"other key", signed, "domain", key.ID, other.Public(), ErrBadSignature},
		{"short key", signed, "domain", key.ID, key.Public()[1:], ErrBadSignature},
		{"changed", changed, "domain", key.ID, key.Public(), ErrBadSignature},
		{"no signatures", []byte(`{}`), "domain", key.ID, key.Public(), ErrNotSigned},
		{"signature is a number", []byte(`{"signatures":{"domain":{"ed25519:1":1}}}`), "domain", key.ID, key.Public(), ErrNotSigned},
		{"signature is no base64", []byte(`{"signatures":{"domain":{"ed25519:1":"!"}}}`), "domain", key.ID, key.Public(), ErrBadSignature},
		{"signature is short", []byte(`{"signatures":{"domain":{"ed25519:1":"AA"}}}`), "domain", key.ID, key.Public(), ErrBadSignature},
		{"no JSON", []byte(`{`), "domain", key.ID, key.Public(), canonicaljson.ErrInvalid},
	} {
		if err := VerifyJSON(c.obj, c.server, c.keyID, c.pub); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.what, err, c.want)
		}
	}
}

// TestOracle lets gomatrixserverlib verify what we sign, and the other way round.
func TestOracle(t *testing.T) {
	key := vectorKey(t)
	word := rapid.StringMatching(`[a-z:.@]{0,8}`)
	rapid.Check(t, func(t *rapid.T) {
		obj, err := canonicaljson.Encode(rapid.MapOf(word, rapid.String()).Filter(func(m map[string]string) bool {
			_, a := m["signatures"]
			_, b := m["unsigned"]
			return !a && !b
		}).Draw(t, "object"))
		if err != nil {
			t.Fatal(err)
		}
		name := rapid.StringMatching(`@?[a-z.:]{1,8}`).Draw(t, "name")
		ours, err := JSON(obj, name, key)
		if err != nil {
			t.Fatal(err)
		}
		if err := gomatrixserverlib.VerifyJSON(name, gomatrixserverlib.KeyID(key.ID), key.Public(), ours); err != nil {
			t.Fatalf("%s: %v", ours, err)
		}
		theirs, err := gomatrixserverlib.SignJSON(name, gomatrixserverlib.KeyID(key.ID), key.Private, obj)
		if err != nil {
			t.Fatal(err)
		}
		if err := VerifyJSON(theirs, name, key.ID, key.Public()); err != nil {
			t.Fatalf("%s: %v", theirs, err)
		}
	})
}

func TestBase64(t *testing.T) {
	// Appendices, "Unpadded Base64".
	for in, want := range map[string]string{"": "", "f": "Zg", "fo": "Zm8", "foo": "Zm9v", "foob": "Zm9vYg", "fooba": "Zm9vYmE", "foobar": "Zm9vYmFy"} {
		if got := Base64([]byte(in)); got != want {
			t.Errorf("%q: got %q", in, got)
		}
		for _, s := range []string{want, want + "=="} {
			if got, err := DecodeBase64(s); err != nil || string(got) != in {
				t.Errorf("%q: got %q, %v", s, got, err)
			}
		}
	}
	if _, err := DecodeBase64("a-_b"); err == nil {
		t.Error("URL-safe base64 was accepted")
	}
}

func TestLoadOrCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	key, err := LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkKeyID(key.ID); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	again, err := LoadOrCreate(path)
	if err != nil || again.ID != key.ID || !again.Private.Equal(key.Private) {
		t.Errorf("loaded %v, %v; want %v", again, err, key)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if err := write(path, key); !errors.Is(err, os.ErrExist) {
		t.Errorf("an existing key was overwritten: %v", err)
	}
	if _, err := LoadOrCreate(filepath.Join(path, "x", "y")); err == nil {
		t.Error("a path within a file was accepted")
	}
	asJSON, err := json.Marshal(key)
	if err != nil || string(asJSON) != `"`+string(key.ID)+`"` {
		t.Errorf("the key's JSON is %s, %v", asJSON, err)
	}
	for _, shown := range []string{fmt.Sprint(key), fmt.Sprintf("%#v", key), fmt.Sprintf("%+v", key)} {
		if shown != string(key.ID) {
			t.Errorf("the key shows as %s", shown)
		}
	}
}

func TestLoadForeign(t *testing.T) {
	want := vectorKey(t)
	rsaKey, err := rsa.GenerateKey(nil, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaDER, err := x509.MarshalPKCS8PrivateKey(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	block := func(typ, keyID string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: typ, Headers: map[string]string{"Key-ID": keyID}, Bytes: b}))
	}
	for _, c := range []struct {
		what, file string
		ok         bool
	}{
		{"Synapse", "ed25519 1 " + seed + "\n", true},
		{"Dendrite", block("MATRIX PRIVATE KEY", "ed25519:1", want.Private.Seed()), true},
		{"RSA", block("PRIVATE KEY", "ed25519:1", rsaDER), false},
		{"no key ID", block("MATRIX PRIVATE KEY", "", want.Private.Seed()), false},
		{"bad key ID", block("MATRIX PRIVATE KEY", "ed25519:a b", want.Private.Seed()), false},
		{"short seed", block("MATRIX PRIVATE KEY", "ed25519:1", want.Private.Seed()[1:]), false},
		{"short Synapse seed", "ed25519 1 AAAA", false},
		{"other algorithm", "curve25519 1 " + seed, false},
		{"empty", "", false},
		{"too large", "ed25519 1 " + seed + strings.Repeat("\n", maxFileSize), false},
	} {
		t.Run(c.what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := LoadOrCreate(path)
			if (err == nil) != c.ok || c.ok && (got.ID != want.ID || !got.Private.Equal(want.Private)) {
				t.Errorf("got %v, %v", got, err)
			}
			if err != nil && strings.Contains(err.Error(), seed) {
				t.Error("the error shows the seed")
			}
		})
	}
}
