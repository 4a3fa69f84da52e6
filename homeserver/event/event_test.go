package event

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// vectorKey is the key of the appendices, "Cryptographic Test Vectors".
func vectorKey(t testing.TB) sign.Key {
	t.Helper()
	seed, err := sign.DecodeBase64("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	return sign.Key{ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(seed)}
}

func version(t testing.TB, name id.RoomVersion) *Version {
	t.Helper()
	v, ok := VersionOf(name)
	if !ok {
		t.Fatalf("no room version %s", name)
	}
	return v
}

func ptr(s string) *string { return &s }

// message is a Proto that every version builds.
func message(content string) Proto {
	return Proto{
		Type: "m.room.message", Sender: "@u:domain", RoomID: "!r:domain", Content: json.RawMessage(content),
		PrevEvents: []id.EventID{"$p"}, AuthEvents: []id.EventID{"$a", "$b"}, Depth: 7, OriginServerTS: 1000000,
	}
}

func mustBuild(t testing.TB, v *Version, p Proto) *Event {
	t.Helper()
	e, err := Build(v, p, "domain", vectorKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return e.Event()
}

// keysOf knows the vector key as that of "domain" and no other.
func keysOf(t testing.TB) KeyFunc { return keysFor(vectorKey(t)) }

func keysFor(key sign.Key) KeyFunc {
	public := key.Public()
	return func(server id.ServerName, keyID id.KeyID, _ int64) (ed25519.PublicKey, bool) {
		return public, server == "domain" && keyID == "ed25519:1"
	}
}

// TestVectors holds hashes and signatures against the appendices, "Event Signing". The events there lack
// members that the formats require, so Build could not make them.
func TestVectors(t *testing.T) {
	for _, c := range []struct{ what, in, hash, signature string }{
		{"minimal",
			`{"room_id":"!x:domain","sender":"@a:domain","origin":"domain","origin_server_ts":1000000,"signatures":{},"hashes":{},"type":"X","content":{},"prev_events":[],"auth_events":[],"depth":3,"unsigned":{"age_ts":1000000}}`,
			"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
			"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"},
		{"redactable",
			`{"content":{"body":"Here is the message content"},"event_id":"$0:domain","origin":"domain","origin_server_ts":1000000,"type":"m.room.message","room_id":"!r:domain","sender":"@u:domain","signatures":{},"unsigned":{"age_ts":1000000}}`,
			"onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
			"Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"},
	} {
		t.Run(c.what, func(t *testing.T) {
			v := version(t, "1")
			canonical, err := canonicaljson.Canonicalize([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			hash := contentHash(canonical)
			if got := sign.Base64(hash[:]); got != c.hash {
				t.Errorf("hash %s, want %s", got, c.hash)
			}
			hashed := canonicaljson.With(canonical, "hashes", []byte(`{"sha256":"`+c.hash+`"}`))
			redacted, err := RedactJSON(v, hashed)
			if err != nil {
				t.Fatal(err)
			}
			if got := vectorKey(t).Sign(sign.Message(redacted)); got != c.signature {
				t.Errorf("signature %s, want %s", got, c.signature)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	names := Versions()
	if len(names) != 12 || names[0] != "1" || names[11] != DefaultVersion {
		t.Errorf("versions: %v", names)
	}
	if _, ok := VersionOf("13"); ok {
		t.Error("version 13 is known")
	}
	// The facts of the first and the last version, spelled out: those between follow from the changes.
	if got, want := *version(t, "1"), (Version{ID: "1", MaxDepth: math.MaxInt64, RedactionAuth: true, AliasesAuth: true, AliasesRedaction: true}); got != want {
		t.Errorf("version 1: %+v", got)
	}
	want := Version{
		ID: "12", EventIDs: EventIDURLSafe, StateRes: StateResV21, EnforceKeyValidity: true, StrictJSON: true, MaxDepth: canonicaljson.MaxInteger,
		RedactsInContent: true, FieldBytes: true, JoinRulesAllowRedaction: true, RestrictedJoinRedaction: true, UpdatedRedaction: true,
		NotificationsAuth: true, Knock: true, RestrictedJoin: true, KnockRestricted: true, IntegerPowerLevels: true,
		UseCreateSender: true, PrivilegedCreators: true, RoomIDIsCreateHash: true, NoCreateInAuthEvents: true,
	}
	if got := *version(t, "12"); got != want {
		t.Errorf("version 12: %+v", got)
	}
}

// TestBuildParse: what Build makes is what Parse reads, in all versions.
func TestBuildParse(t *testing.T) {
	for _, name := range Versions() {
		t.Run(string(name), func(t *testing.T) {
			v := version(t, name)
			protos := []Proto{
				message(`{"body":"x\u00e9\n","msgtype":"m.text","a":{}}`),
				{Type: TypeMember, StateKey: ptr("@x:domain"), Sender: "@u:domain", RoomID: "!r:domain", Content: json.RawMessage(`{"membership":"invite"}`)},
				{Type: TypeRedaction, Sender: "@u:domain", RoomID: "!r:domain", Redacts: "$target", Content: json.RawMessage(`{"reason":"spam"}`)},
			}
			create := Proto{Type: TypeCreate, StateKey: ptr(""), Sender: "@u:domain", Content: json.RawMessage(`{"room_version":"` + string(name) + `"}`)}
			if !v.RoomIDIsCreateHash {
				create.RoomID = "!r:domain"
			}
			for _, p := range append(protos, create) {
				built := mustBuild(t, v, p)
				parsed, err := Parse(v, built.WithUnsigned([]byte(`{"age":1}`)))
				if err != nil {
					t.Fatalf("%s: %v", built.JSON, err)
				}
				same(t, built, parsed)
				trusted, err := ParseTrusted(v, built.ID, built.JSON)
				if err != nil {
					t.Fatal(err)
				}
				same(t, built, trusted)
				if verified, err := Verify(parsed, keysOf(t)); err != nil || verified.Event() != parsed {
					t.Errorf("%s does not verify: %v", built.JSON, err)
				}
				if built.Type == TypeRedaction && built.Redacts != "$target" || built.Type == TypeMember && built.Membership() != "invite" {
					t.Errorf("redacts %q, membership %q", built.Redacts, built.Membership())
				}
				if v.RoomIDIsCreateHash && built.Type == TypeCreate && string(built.RoomID[1:]) != string(built.ID[1:]) {
					t.Errorf("room %s of create event %s", built.RoomID, built.ID)
				}
			}
		})
	}
}

func same(t *testing.T, want, got *Event) {
	t.Helper()
	plain := func(e *Event) Event {
		c := *e
		c.StateKey, c.JSON, c.Content, c.PrevEvents, c.AuthEvents = nil, nil, nil, nil, nil
		return c
	}
	a, err := json.Marshal(plain(want))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(plain(got))
	if err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) || string(want.JSON) != string(got.JSON) || string(want.Content) != string(got.Content) ||
		want.Tuple() != got.Tuple() || want.IsState() != got.IsState() || want.membership != got.membership ||
		!equalIDs(want.PrevEvents, got.PrevEvents) || !equalIDs(want.AuthEvents, got.AuthEvents) {
		t.Errorf("got  %s %s\nwant %s %s", b, got.JSON, a, want.JSON)
	}
}

func equalIDs(a, b []id.EventID) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestEventIDFormats(t *testing.T) {
	if e := mustBuild(t, version(t, "2"), message(`{}`)); e.ID.Server() != "domain" || !strings.Contains(string(e.JSON), `"event_id":"`+string(e.ID)) {
		t.Errorf("version 2: %s in %s", e.ID, e.JSON)
	}
	// The same event but for the alphabet: reference hashes with the letters that differ turn up soon.
	v3, v4 := version(t, "3"), version(t, "4")
	for i := range int64(50) {
		p := message(`{}`)
		p.Depth = i
		a, b := mustBuild(t, v3, p), mustBuild(t, v4, p)
		if strings.NewReplacer("+", "-", "/", "_").Replace(string(a.ID)) != string(b.ID) || len(b.ID) != 44 {
			t.Fatalf("%s and %s", a.ID, b.ID)
		}
		if a.ReferenceHash() != string(a.ID[1:]) {
			t.Fatalf("reference hash %s of %s", a.ReferenceHash(), a.ID)
		}
	}
}

func TestReferencesOfOldVersions(t *testing.T) {
	v := version(t, "1")
	p := message(`{}`)
	p.Hashes = map[id.EventID]string{"$p": "HHH"}
	e := mustBuild(t, v, p)
	if want := `"prev_events":[["$p",{"sha256":"HHH"}]]`; !strings.Contains(string(e.JSON), want) {
		t.Errorf("no %s in %s", want, e.JSON)
	}
	if want := `"auth_events":[["$a",{}],["$b",{}]]`; !strings.Contains(string(e.JSON), want) {
		t.Errorf("no %s in %s", want, e.JSON)
	}
}

func TestTemplate(t *testing.T) {
	for _, name := range Versions() {
		v := version(t, name)
		p := message(`{"membership":"join"}`)
		p.Type, p.StateKey, p.Hashes = TypeMember, ptr("@u:domain"), map[id.EventID]string{"$p": "HHH"}
		raw, err := v.Template(p)
		if err != nil {
			t.Fatal(err)
		}
		if canonicaljson.Get(raw, "hashes") != nil || canonicaljson.Get(raw, "signatures") != nil || canonicaljson.Get(raw, "event_id") != nil {
			t.Errorf("version %s: %s", name, raw)
		}
		back, err := ParseTemplate(v, canonicaljson.With(canonicaljson.With(raw, "event_id", []byte(`"$evil:h"`)), "signatures", []byte(`{}`)))
		if err != nil {
			t.Fatal(err)
		}
		again, err := v.Template(back)
		if err != nil || string(again) != string(raw) {
			t.Errorf("version %s: %s became %s, %v", name, raw, again, err)
		}
	}
	for _, bad := range []string{`[]`, `{`, `{}`, `{"type":"m.room.member","sender":"@u:domain","room_id":"!r:domain"}`, `{"type":"m.room.member","sender":"u","room_id":"!r:domain","content":{}}`} {
		if p, err := ParseTemplate(version(t, "10"), []byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", bad, p, err)
		}
	}
}

func TestClientJSON(t *testing.T) {
	old := message(`{"reason":"r"}`)
	old.Type, old.Redacts = TypeRedaction, "$target"
	for name, want := range map[id.RoomVersion]string{
		"10": `{"content":{"reason":"r","redacts":"$target"},"event_id":"ID","origin_server_ts":1000000,"redacts":"$target","room_id":"!r:domain","sender":"@u:domain","type":"m.room.redaction","unsigned":{"age":1}}`,
		"11": `{"content":{"reason":"r","redacts":"$target"},"event_id":"ID","origin_server_ts":1000000,"redacts":"$target","room_id":"!r:domain","sender":"@u:domain","type":"m.room.redaction","unsigned":{"age":1}}`,
	} {
		e := mustBuild(t, version(t, name), old)
		if got := strings.Replace(string(e.ClientJSON([]byte(`{"age":1}`))), string(e.ID), "ID", 1); got != want {
			t.Errorf("version %s: got %s", name, got)
		}
	}
	state := message(`{"name":"n"}`)
	state.Type, state.StateKey = "m.room.name", ptr("k\n")
	e := mustBuild(t, version(t, "12"), state)
	if got, want := strings.Replace(string(e.SyncJSON(nil)), string(e.ID), "ID", 1), `{"content":{"name":"n"},"event_id":"ID","origin_server_ts":1000000,"sender":"@u:domain","state_key":"k\n","type":"m.room.name"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := string(e.StrippedJSON()), `{"content":{"name":"n"},"sender":"@u:domain","state_key":"k\n","type":"m.room.name"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
