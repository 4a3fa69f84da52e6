package event

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
)

// FuzzParse: what parses is in canonical form, parses to itself with the same ID, and redacts without changing
// the ID; nothing panics.
func FuzzParse(f *testing.F) {
	for _, name := range Versions() {
		v := version(f, name)
		p := message(`{"membership":"join","third_party_invite":{"signed":{}},"join_authorised_via_users_server":"@x:domain"}`)
		p.Redacts, p.StateKey = "$x", ptr("")
		for _, typ := range []string{TypeMember, TypeRedaction, TypePowerLevels} {
			p.Type = typ
			f.Add(string(name), []byte(mustBuild(f, v, p).WithUnsigned([]byte(`{"age":1}`))))
		}
	}
	f.Fuzz(func(t *testing.T, name string, raw []byte) {
		v, ok := VersionOf(id.RoomVersion(name))
		if !ok {
			return
		}
		if trusted, err := ParseTrusted(v, "$x", raw); err == nil {
			trusted.ClientJSON(nil)
		}
		_, _ = ParseTemplate(v, raw)
		e, err := Parse(v, raw)
		if err != nil {
			return
		}
		if len(e.JSON) > MaxSize || len(e.PrevEvents) > MaxPrevEvents || len(e.AuthEvents) > MaxAuthEvents {
			t.Fatalf("over the limits: %s", e.JSON)
		}
		again, err := Parse(v, e.JSON)
		if err != nil || again.ID != e.ID || !bytes.Equal(again.JSON, e.JSON) {
			t.Fatalf("%s became %v, %v", e.JSON, again, err)
		}
		trusted, err := ParseTrusted(v, e.ID, e.JSON)
		if err != nil || trusted.RoomID != e.RoomID || trusted.Redacts != e.Redacts || trusted.Membership() != e.Membership() {
			t.Fatalf("%s became %v, %v", e.JSON, trusted, err)
		}
		redacted, err := e.Redact()
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := redacted.Redact(); err != nil || !bytes.Equal(twice.JSON, redacted.JSON) {
			t.Fatalf("%s became %s, %v", redacted.JSON, twice.JSON, err)
		}
		if reparsed, err := Parse(v, redacted.JSON); err != nil || reparsed.ID != e.ID {
			t.Fatalf("%s became %v, %v", redacted.JSON, reparsed, err)
		}
		if !json.Valid(e.ClientJSON(nil)) || !json.Valid(e.StrippedJSON()) {
			t.Fatalf("invalid client form of %s", e.JSON)
		}
		_, _ = Verify(e, keysOf(t))
	})
}
