package identity

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/e2ee/olm"
	"github.com/securecomm/securecomm/e2ee/wire"
	"github.com/securecomm/securecomm/homeserver/id"
)

const alice = id.UserID("@alice:example.org")

// TestVectors has the signatures of Appendices, "Signing JSON: Test Vectors".
func TestVectors(t *testing.T) {
	seed, err := wire.DecodeBase64("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	private := ed25519.NewKeyFromSeed(seed)
	by := Signer{User: "domain", Key: "ed25519:1", Sign: func(m []byte) []byte { return ed25519.Sign(private, m) }}
	for in, signature := range map[string]string{
		`{}`:                       "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ",
		`{"one": 1, "two": "Two"}`: "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
		`{"two":"Two","unsigned":{"x":1},"one":1}`: "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
	} {
		signed, err := SignJSON([]byte(in), by)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(signed, []byte(`"signatures":{"domain":{"ed25519:1":"`+signature+`"}}`)) {
			t.Errorf("%s became %s", in, signed)
		}
		if err := VerifyJSON(signed, "domain", "ed25519:1", private.Public().(ed25519.PublicKey)); err != nil {
			t.Error(err)
		}
	}
}

func TestDevice(t *testing.T) {
	account := olm.NewAccount()
	raw, err := NewDevice(alice, "PHONE", account)
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseDevice(raw, alice, "PHONE")
	if err != nil || d.Identity != account.Identity() || !d.Signing.Equal(account.Signing()) {
		t.Fatal(d, err)
	}
	named := bytes.Replace(raw, []byte(`"user_id"`), []byte(`"unsigned":{"device_display_name":"Phone"},"user_id"`), 1)
	if d, err := ParseDevice(named, alice, "PHONE"); err != nil || d.Name != "Phone" || bytes.Contains(d.JSON, []byte("Phone")) {
		t.Errorf("%s, %v", d.JSON, err)
	}
	for what, f := range map[string]func() error{
		"another user":   func() error { _, err := ParseDevice(raw, "@bob:example.org", "PHONE"); return err },
		"another device": func() error { _, err := ParseDevice(raw, alice, "TABLET"); return err },
		"changed": func() error {
			_, err := ParseDevice(bytes.Replace(raw, []byte("megolm.v1"), []byte("megolm.v2"), 1), alice, "PHONE")
			return err
		},
		"a key twice": func() error {
			_, err := ParseDevice(append(raw[:len(raw)-1:len(raw)-1], `,"user_id":"@alice:example.org"}`...), alice, "PHONE")
			return err
		},
		"too large": func() error {
			_, err := ParseDevice([]byte(`{"x":"`+strings.Repeat("x", MaxObject)+`"}`), alice, "PHONE")
			return err
		},
	} {
		if err := f(); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", what, err)
		}
	}
	account.GenerateOneTimeKeys(1)
	keys, _ := account.Unpublished()
	signed, err := NewOneTimeKey(keys[0].Key, true, DeviceSigner(alice, "PHONE", account))
	if err != nil {
		t.Fatal(err)
	}
	if key, err := d.OneTimeKey(signed); err != nil || key != keys[0].Key {
		t.Error(key, err)
	}
	if _, err := d.OneTimeKey(bytes.Replace(signed, []byte("true"), []byte("false"), 1)); !errors.Is(err, ErrSignature) {
		t.Errorf("a changed one-time key: %v", err)
	}
}

func TestCrossSigning(t *testing.T) {
	account, private := olm.NewAccount(), NewPrivate()
	by := DeviceSigner(alice, "PHONE", account)
	master, ssk, usk, err := private.Public(alice, &by)
	if err != nil {
		t.Fatal(err)
	}
	u, err := ParseUser(alice, master, ssk, usk)
	if err != nil || !private.Matches(u) || NewPrivate().Matches(u) {
		t.Fatal(u, err)
	}
	if err := VerifyJSON(master, alice, "ed25519:PHONE", account.Signing()); err != nil {
		t.Errorf("the device did not sign the master key: %v", err)
	}
	raw, _ := NewDevice(alice, "PHONE", account)
	d, _ := ParseDevice(raw, alice, "PHONE")
	if u.Owns(d) {
		t.Error("owns a device that it did not sign")
	}
	signer, err := private.Signer(alice, SelfSigning)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = SignJSON(raw, signer); err != nil {
		t.Fatal(err)
	}
	if d, err = ParseDevice(raw, alice, "PHONE"); err != nil || !u.Owns(d) {
		t.Error("does not own its device", err)
	}
	bobMaster, bobSSK, _, err := NewPrivate().Public("@bob:example.org", nil)
	if err != nil {
		t.Fatal(err)
	}
	if signer, err = private.Signer(alice, UserSigning); err != nil {
		t.Fatal(err)
	}
	vouched, err := SignJSON(bobMaster, signer)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		master []byte
		want   bool
	}{{bobMaster, false}, {vouched, true}} {
		bob, err := ParseUser("@bob:example.org", c.master, bobSSK, nil)
		if err != nil || u.Vouches(bob) != c.want {
			t.Errorf("vouches: %v, %v", !c.want, err)
		}
	}
	otherMaster, otherSSK, _, _ := NewPrivate().Public(alice, nil)
	for what, keys := range map[string][3][]byte{
		"another master's self-signing key": {master, otherSSK, nil},
		"another master":                    {otherMaster, ssk, nil},
		"the wrong usage":                   {ssk, nil, nil},
		"another user":                      {bobMaster, nil, nil},
		"no master":                         {nil, ssk, nil},
	} {
		if _, err := ParseUser(alice, keys[0], keys[1], keys[2]); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
}

func FuzzParse(f *testing.F) {
	account := olm.NewAccount()
	raw, _ := NewDevice(alice, "PHONE", account)
	master, ssk, usk, _ := NewPrivate().Public(alice, nil)
	f.Add([]byte(raw), []byte(ssk))
	f.Add([]byte(master), []byte(usk))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if d, err := ParseDevice(a, alice, "PHONE"); err == nil && !d.Signing.Equal(account.Signing()) {
			// Anybody can make a device that signs itself; it must at least survive being read again.
			if _, err := ParseDevice(d.JSON, alice, "PHONE"); err != nil {
				t.Error(err)
			}
		}
		if u, err := ParseUser(alice, a, b, nil); err == nil && !json.Valid(u.Master.JSON) {
			t.Error("what was kept is not JSON")
		}
	})
}
