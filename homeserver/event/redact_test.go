package event

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestRedactContent spells out, per type, what each version keeps (the "Redactions" of each room version).
func TestRedactContent(t *testing.T) {
	const levels = `"ban":1,"events":{"a":1},"events_default":1,"kick":1,"redact":1,"state_default":1,"users":{},"users_default":1`
	for _, c := range []struct{ typ, content, first, keep, last string }{ // first and last version that keep this
		{"m.room.message", `{"body":"x"}`, "1", `{}`, "12"},
		{"m.room.member", `{"displayname":"x","membership":"join"}`, "1", `{"membership":"join"}`, "12"},
		{"m.room.member", `{"join_authorised_via_users_server":"@x:h","membership":"join"}`, "1", `{"membership":"join"}`, "8"},
		{"m.room.member", `{"join_authorised_via_users_server":"@x:h","membership":"join"}`, "9", `{"join_authorised_via_users_server":"@x:h","membership":"join"}`, "12"},
		{"m.room.member", `{"third_party_invite":{"display_name":"x","signed":{"a":1}}}`, "1", `{}`, "10"},
		{"m.room.member", `{"third_party_invite":{"display_name":"x","signed":{"a":1}}}`, "11", `{"third_party_invite":{"signed":{"a":1}}}`, "12"},
		{"m.room.member", `{"third_party_invite":{"display_name":"x"}}`, "11", `{"third_party_invite":{}}`, "12"},
		{"m.room.member", `{"third_party_invite":1}`, "11", `{}`, "12"},
		{"m.room.create", `{"creator":"@x:h","room_version":"1"}`, "1", `{"creator":"@x:h"}`, "10"},
		{"m.room.create", `{"creator":"@x:h","room_version":"1"}`, "11", `{"creator":"@x:h","room_version":"1"}`, "12"},
		{"m.room.join_rules", `{"allow":[],"join_rule":"x","x":1}`, "1", `{"join_rule":"x"}`, "7"},
		{"m.room.join_rules", `{"allow":[],"join_rule":"x","x":1}`, "8", `{"allow":[],"join_rule":"x"}`, "12"},
		{"m.room.power_levels", `{` + levels + `,"x":1}`, "1", `{` + levels + `}`, "12"},
		{"m.room.power_levels", `{"invite":1,"notifications":{}}`, "1", `{}`, "10"},
		{"m.room.power_levels", `{"invite":1,"notifications":{}}`, "11", `{"invite":1}`, "12"},
		{"m.room.aliases", `{"aliases":[],"x":1}`, "1", `{"aliases":[]}`, "5"},
		{"m.room.aliases", `{"aliases":[],"x":1}`, "6", `{}`, "12"},
		{"m.room.history_visibility", `{"history_visibility":"x","x":1}`, "1", `{"history_visibility":"x"}`, "12"},
		{"m.room.redaction", `{"reason":"x","redacts":"$x"}`, "1", `{}`, "10"},
		{"m.room.redaction", `{"reason":"x","redacts":"$x"}`, "11", `{"redacts":"$x"}`, "12"},
		{"m.room.third_party_invite", `{"public_key":"x"}`, "1", `{}`, "12"},
	} {
		all := Versions()
		for _, name := range all[slices.Index(all, id.RoomVersion(c.first)) : slices.Index(all, id.RoomVersion(c.last))+1] {
			raw := fmt.Sprintf(`{"content":%s,"type":%q}`, c.content, c.typ)
			got, err := RedactJSON(version(t, name), []byte(raw))
			if want := fmt.Sprintf(`{"content":%s,"type":%q}`, c.keep, c.typ); err != nil || string(got) != want {
				t.Errorf("version %s: %s became %s, %v", name, raw, got, err)
			}
		}
	}
}

func TestRedactMembers(t *testing.T) {
	kept := strings.Fields("auth_events content depth event_id hashes origin_server_ts prev_events room_id sender signatures state_key type")
	old := strings.Fields("membership origin prev_state")
	raw := []byte(`{"content":{},"type":"x"}`)
	for _, key := range append(append(slices.Clone(kept), old...), "redacts", "unsigned", "x") {
		if key != "content" && key != "type" {
			raw = canonicaljson.With(raw, key, []byte(`{}`))
		}
	}
	for _, name := range Versions() {
		got, err := RedactJSON(version(t, name), raw)
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for key := range canonicaljson.Members(got) {
			keys = append(keys, string(key))
		}
		want := slices.Clone(kept)
		if name != "11" && name != "12" {
			want = append(want, old...)
		}
		slices.Sort(want)
		if !slices.Equal(keys, want) {
			t.Errorf("version %s keeps %v", name, keys)
		}
	}
	for _, bad := range []string{`{`, `[]`, `{"content":{}}`, `{"content":1,"type":"x"}`, `{"type":"x"}`, `{"content":{},"type":1}`} {
		if got, err := RedactJSON(version(t, "1"), []byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s became %s, %v", bad, got, err)
		}
	}
}

// TestRedactedStaysGenuine: a redacted event has the same ID and good signatures, and redacting it again
// changes nothing.
func TestRedactedStaysGenuine(t *testing.T) {
	for _, name := range Versions() {
		v := version(t, name)
		e := mustBuild(t, v, message(`{"body":"secret"}`))
		redacted, err := e.Redact()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(redacted.JSON), "secret") || string(redacted.Content) != "{}" || redacted.ID != e.ID {
			t.Errorf("version %s: %s", name, redacted.JSON)
		}
		parsed, err := Parse(v, redacted.JSON)
		if err != nil || parsed.ID != e.ID {
			t.Fatalf("version %s: parsed as %v, %v", name, parsed, err)
		}
		if CheckContentHash(parsed) || !CheckContentHash(e) {
			t.Errorf("version %s: content hashes", name)
		}
		verified, err := Verify(parsed, keysOf(t))
		if err != nil || string(verified.Event().JSON) != string(redacted.JSON) {
			t.Errorf("version %s: verified as %v, %v", name, verified, err)
		}
	}
}
