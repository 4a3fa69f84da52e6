package event

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

func mustParse(t *testing.T, v *Version, raw []byte) *Event {
	t.Helper()
	e, err := Parse(v, raw)
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return e
}

func TestVerify(t *testing.T) {
	v := version(t, "12")
	good := mustBuild(t, v, message(`{"body":"x"}`))
	other, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	signatures := func(s string) []byte { return canonicaljson.With(good.JSON, "signatures", []byte(s)) }
	signature := string(canonicaljson.Get(canonicaljson.Get(canonicaljson.Get(good.JSON, "signatures"), "domain"), "ed25519:1"))
	for _, c := range []struct {
		what string
		raw  []byte
		want error
	}{
		{"good", good.JSON, nil},
		{"an unknown key as well", signatures(`{"domain":{"ed25519:0":"AA","ed25519:1":` + signature + `}}`), nil},
		{"another algorithm as well", signatures(`{"domain":{"ed25519:1":` + signature + `,"rsa:1":1}}`), nil},
		{"a bad one of another server", signatures(`{"domain":{"ed25519:1":` + signature + `},"other":{"ed25519:1":"AA"}}`), nil},
		{"changed depth", canonicaljson.With(good.JSON, "depth", []byte("8")), sign.ErrBadSignature},
		{"changed hashes", canonicaljson.With(good.JSON, "hashes", []byte(`{"sha256":"AA"}`)), sign.ErrBadSignature},
		{"bad signature", signatures(`{"domain":{"ed25519:1":"AA"}}`), sign.ErrBadSignature},
		{"signature is a number", signatures(`{"domain":{"ed25519:1":1}}`), sign.ErrBadSignature},
		{"only an unknown key", signatures(`{"domain":{"ed25519:0":` + signature + `}}`), sign.ErrNotSigned},
		{"no signature", signatures(`{}`), sign.ErrNotSigned},
		{"another server", signatures(`{"other":{"ed25519:1":` + signature + `}}`), sign.ErrNotSigned},
		{"signatures of a list", signatures(`{"domain":[]}`), sign.ErrNotSigned},
	} {
		verified, err := Verify(mustParse(t, v, c.raw), keysOf(t))
		if !errors.Is(err, c.want) || (err != nil) != (verified.Event() == nil) {
			t.Errorf("%s: got %v, %v", c.what, verified, err)
		}
	}

	wrong := func(id.ServerName, id.KeyID, int64) (ed25519.PublicKey, bool) { return other.Public(), true }
	if _, err := Verify(good, wrong); !errors.Is(err, sign.ErrBadSignature) {
		t.Errorf("with another key: %v", err)
	}
	Verify(good, func(_ id.ServerName, _ id.KeyID, at int64) (ed25519.PublicKey, bool) {
		if at != good.OriginServerTS {
			t.Errorf("asked for a key at %d", at)
		}
		return nil, false
	})
}

// TestVerifyRedacts: content that is not what was hashed is dropped, the event stays.
func TestVerifyRedacts(t *testing.T) {
	v := version(t, "12")
	good := mustBuild(t, v, message(`{"body":"x"}`))
	forged := mustParse(t, v, canonicaljson.With(good.JSON, "content", []byte(`{"body":"forged"}`)))
	if forged.ID != good.ID {
		t.Errorf("ID %s, want %s", forged.ID, good.ID)
	}
	verified, err := Verify(forged, keysOf(t))
	if err != nil || strings.Contains(string(verified.Event().JSON), "forged") {
		t.Errorf("got %v, %v", verified, err)
	}
}

func TestVerifyLooksAtFewSignatures(t *testing.T) {
	v := version(t, "12")
	e := mustBuild(t, v, message(`{}`))
	signatures := []byte(`{}`)
	for i := range maxSignatures + 1 {
		signatures = canonicaljson.With(signatures, fmt.Sprintf("ed25519:%04d", i), []byte(`"AA"`))
	}
	e = mustParse(t, v, canonicaljson.With(e.JSON, "signatures", canonicaljson.With(nil, "domain", signatures)))
	asked := 0
	if _, err := Verify(e, func(id.ServerName, id.KeyID, int64) (ed25519.PublicKey, bool) { asked++; return nil, false }); err == nil || asked != maxSignatures {
		t.Errorf("asked for %d keys, %v", asked, err)
	}
	if got := e.SigningKeys("domain"); len(got) != maxSignatures || got[0] != "ed25519:0000" {
		t.Errorf("signing keys: %v", got)
	}
}

func TestSignaturesNeeded(t *testing.T) {
	member := func(content string) Proto {
		return Proto{Type: TypeMember, StateKey: ptr("@x:target"), Sender: "@u:sender", RoomID: "!r:room", Content: json.RawMessage(content)}
	}
	plain := message(`{"membership":"invite","third_party_invite":{},"join_authorised_via_users_server":"@x:via"}`)
	plain.Sender = "@u:sender"
	for _, c := range []struct {
		what    string
		version id.RoomVersion
		p       Proto
		want    []id.ServerName
	}{
		{"message", "3", plain, []id.ServerName{"sender"}},
		{"message with a server in its ID", "2", plain, []id.ServerName{"sender", "domain"}},
		{"invite", "12", member(`{"membership":"invite"}`), []id.ServerName{"sender"}},
		{"third-party invite", "12", member(`{"membership":"invite","third_party_invite":{}}`), nil},
		{"third-party invite with a server in its ID", "1", member(`{"membership":"invite","third_party_invite":{}}`), []id.ServerName{"domain"}},
		{"join of a third-party invite", "12", member(`{"membership":"join","third_party_invite":{}}`), []id.ServerName{"sender"}},
		{"restricted join", "8", member(`{"membership":"join","join_authorised_via_users_server":"@x:via"}`), []id.ServerName{"sender", "via"}},
		{"restricted join by the same server", "8", member(`{"membership":"join","join_authorised_via_users_server":"@x:sender"}`), []id.ServerName{"sender"}},
		{"before restricted joins", "7", member(`{"membership":"join","join_authorised_via_users_server":"@x:via"}`), []id.ServerName{"sender"}},
		{"restricted join by nobody", "8", member(`{"membership":"join","join_authorised_via_users_server":1}`), []id.ServerName{"sender", ""}},
	} {
		e := mustBuild(t, version(t, c.version), c.p)
		if got := SignaturesNeeded(e); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
	nobody := mustBuild(t, version(t, "8"), Proto{Type: TypeMember, StateKey: ptr("@u:domain"), Sender: "@u:domain", RoomID: "!r:domain", Content: json.RawMessage(`{"join_authorised_via_users_server":1}`)})
	public := vectorKey(t).Public()
	if _, err := Verify(nobody, func(id.ServerName, id.KeyID, int64) (ed25519.PublicKey, bool) { return public, true }); !errors.Is(err, sign.ErrNotSigned) {
		t.Errorf("authorised by nobody: %v", err)
	}
}

func TestSign(t *testing.T) {
	v := version(t, "12")
	e := mustBuild(t, v, Proto{Type: TypeMember, StateKey: ptr("@x:other"), Sender: "@u:domain", RoomID: "!r", Content: json.RawMessage(`{"displayname":"x","join_authorised_via_users_server":"@y:other","membership":"join"}`)})
	if _, err := Verify(e, keysOf(t)); !errors.Is(err, sign.ErrNotSigned) {
		t.Fatalf("without the second signature: %v", err)
	}
	key, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	twice, err := Verified{e}.Sign("other", key)
	if err != nil {
		t.Fatal(err)
	}
	signed := mustParse(t, v, twice.Event().JSON)
	same(t, twice.Event(), signed)
	if signed.ID != e.ID || !CheckContentHash(signed) {
		t.Errorf("signing changed the event: %s", signed.JSON)
	}
	if got := signed.SigningKeys("other"); !slices.Equal(got, []id.KeyID{key.ID}) {
		t.Errorf("signing keys: %v", got)
	}
	verified, err := Verify(signed, func(server id.ServerName, keyID id.KeyID, at int64) (ed25519.PublicKey, bool) {
		if server == "other" {
			return key.Public(), true
		}
		return keysOf(t)(server, keyID, at)
	})
	if err != nil || verified.Event() != signed {
		t.Errorf("with both signatures: %v, %v", verified, err)
	}
}
