package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestParseRefuses changes one member of a good event at a time; null removes it.
func TestParseRefuses(t *testing.T) {
	refs := func(n int) string {
		return `["$x"` + strings.Repeat(`,"$x"`, n-1) + `]`
	}
	pairs := func(n int) string { return strings.ReplaceAll(refs(n), `"$x"`, `["$x",{}]`) }
	long := strings.Repeat("x", MaxFieldLength)
	for _, c := range []struct {
		version    id.RoomVersion
		key, value string
		ok, large  bool
	}{
		{"12", "type", `"` + long + `"`, true, false},
		{"12", "type", `"` + long + `x"`, false, true},
		{"12", "type", `1`, false, false},
		{"12", "type", `null`, false, false},
		{"12", "state_key", `"` + long + `"`, true, false},
		{"12", "state_key", `"` + long + `x"`, false, true},
		{"12", "state_key", `1`, false, false},
		{"11", "state_key", `"` + strings.Repeat("é", MaxFieldLength/2) + `"`, true, false},
		{"11", "state_key", `"` + strings.Repeat("é", MaxFieldLength/2+1) + `"`, false, true},
		{"10", "state_key", `"` + strings.Repeat("é", MaxFieldLength) + `"`, true, false},
		{"10", "state_key", `"` + strings.Repeat("é", MaxFieldLength+1) + `"`, false, true},
		{"12", "sender", `"u:domain"`, false, false},
		{"12", "sender", `"@` + long + `:domain"`, false, true},
		{"12", "sender", `null`, false, false},
		{"12", "room_id", `"!hash"`, true, false},
		{"12", "room_id", `"r"`, false, false},
		{"12", "room_id", `null`, false, false},
		{"12", "content", `[]`, false, false},
		{"12", "content", `null`, false, false},
		{"12", "depth", `-1`, false, false},
		{"12", "depth", `9007199254740991`, true, false},
		{"12", "depth", `9007199254740992`, false, false},
		{"5", "depth", `9223372036854775807`, true, false},
		{"5", "depth", `9223372036854775808`, false, false},
		{"5", "depth", `1.5`, false, false},
		{"12", "depth", `"1"`, false, false},
		{"12", "depth", `null`, false, false},
		{"12", "origin_server_ts", `null`, false, false},
		{"12", "origin_server_ts", `"1"`, false, false},
		{"12", "prev_events", refs(MaxPrevEvents), true, false},
		{"12", "prev_events", refs(MaxPrevEvents + 1), false, false},
		{"12", "prev_events", `[]`, true, false},
		{"12", "prev_events", pairs(1), false, false},
		{"12", "prev_events", `["x"]`, false, false},
		{"12", "prev_events", `{}`, false, false},
		{"12", "prev_events", `null`, false, false},
		{"12", "auth_events", refs(MaxAuthEvents), true, false},
		{"12", "auth_events", refs(MaxAuthEvents + 1), false, false},
		{"12", "auth_events", `null`, false, false},
		{"2", "prev_events", pairs(MaxPrevEvents), true, false},
		{"2", "prev_events", pairs(MaxPrevEvents + 1), false, false},
		{"2", "prev_events", refs(1), false, false},
		{"2", "prev_events", `[["$x"]]`, false, false},
		{"2", "prev_events", `[["$x",{},{}]]`, false, false},
		{"2", "prev_events", `[["$x",1]]`, false, false},
		{"2", "auth_events", `[[1,{}]]`, false, false},
		{"2", "event_id", `null`, false, false},
		{"2", "event_id", `"$x"`, false, false},
		{"2", "event_id", `"x:domain"`, false, false},
		{"12", "hashes", `{}`, false, false},
		{"12", "hashes", `{"sha256":1}`, false, false},
		{"12", "hashes", `null`, false, false},
		{"12", "signatures", `[]`, false, false},
		{"12", "signatures", `null`, false, false},
		{"12", "extra", `1`, true, false},
		{"12", "extra", `1.5`, false, false},
		{"6", "extra", `1.5`, false, false},
		{"5", "extra", `1.5`, true, false},
		{"12", "redacts", `1`, true, false},
		{"12", "unsigned", `1`, true, false},
	} {
		t.Run(label(c.version, c.key, c.value), func(t *testing.T) {
			v := version(t, c.version)
			raw := mustBuild(t, v, message(`{"body":"x"}`)).JSON
			if c.value == "null" {
				raw = canonicaljson.Without(raw, c.key)
			} else {
				raw = canonicaljson.With(raw, c.key, []byte(c.value))
			}
			e, err := Parse(v, raw)
			if (err == nil) != c.ok {
				t.Errorf("got %v, %v", e, err)
			}
			if err != nil && (!errors.Is(err, ErrMalformed) || errors.Is(err, ErrTooLarge) != c.large) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestParseRefusesNonEvents(t *testing.T) {
	for _, raw := range []string{``, `{`, `[]`, `1`, `null`, `{}`, `{"type":"a","type":"a"}`} {
		if e, err := Parse(version(t, "12"), []byte(raw)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v, %v", raw, e, err)
		}
	}
}

func TestCreateOfVersion12(t *testing.T) {
	v := version(t, "12")
	create := Proto{Type: TypeCreate, StateKey: ptr(""), Sender: "@u:domain", Content: json.RawMessage(`{}`)}
	good := mustBuild(t, v, create)
	if _, err := Parse(v, canonicaljson.With(good.JSON, "room_id", []byte(`"!r:domain"`))); !errors.Is(err, ErrMalformed) {
		t.Errorf("with a room_id: %v", err)
	}
	for _, key := range []string{`"x"`, ``} {
		raw := canonicaljson.Without(good.JSON, "state_key")
		if key != "" {
			raw = canonicaljson.With(raw, "state_key", []byte(key))
		}
		if _, err := Parse(v, raw); !errors.Is(err, ErrMalformed) {
			t.Errorf("with state key %s: %v", key, err)
		}
	}
	withRoom, keyed, elsewhere := create, create, message(`{}`)
	withRoom.RoomID, keyed.StateKey, elsewhere.RoomID = "!r:domain", nil, ""
	for _, p := range []Proto{withRoom, keyed, elsewhere} {
		if e, err := Build(v, p, "domain", vectorKey(t)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%+v was built: %v, %v", p, e.Event(), err)
		}
	}
}

// TestSize builds and parses events of exactly the limit and one byte more.
func TestSize(t *testing.T) {
	for _, name := range []id.RoomVersion{"1", "12"} {
		v := version(t, name)
		body := func(n int) Proto { return message(`{"body":"` + strings.Repeat("x", n) + `"}`) }
		room := MaxSize - len(mustBuild(t, v, body(0)).JSON)
		largest := mustBuild(t, v, body(room))
		if len(largest.JSON) != MaxSize {
			t.Fatalf("%d bytes", len(largest.JSON))
		}
		if _, err := Parse(v, largest.WithUnsigned([]byte(`{"age":12345}`))); err != nil {
			t.Errorf("the largest event: %v", err)
		}
		if _, err := Build(v, body(room+1), "domain", vectorKey(t)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("built one more byte: %v", err)
		}
		if _, err := Parse(v, canonicaljson.With(largest.JSON, "x", []byte(`1`))); !errors.Is(err, ErrTooLarge) {
			t.Errorf("parsed too much: %v", err)
		}
		if _, err := largest.Sign("other", vectorKey(t)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("signed too much: %v", err)
		}
		if _, err := Parse(v, largest.WithUnsigned([]byte(`"`+strings.Repeat("x", maxForeignSize)+`"`))); !errors.Is(err, ErrTooLarge) {
			t.Errorf("parsed a giant: %v", err)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	for what, change := range map[string]func(*Proto){
		"content is a list":        func(p *Proto) { p.Content = json.RawMessage(`[]`) },
		"content is nothing":       func(p *Proto) { p.Content = nil },
		"content has a fraction":   func(p *Proto) { p.Content = json.RawMessage(`{"a":1.5}`) },
		"type":                     func(p *Proto) { p.Type = strings.Repeat("x", MaxFieldLength+1) },
		"state key":                func(p *Proto) { p.StateKey = ptr(strings.Repeat("x", MaxFieldLength+1)) },
		"negative depth":           func(p *Proto) { p.Depth = -1 },
		"large depth":              func(p *Proto) { p.Depth = canonicaljson.MaxInteger + 1 },
		"large timestamp":          func(p *Proto) { p.OriginServerTS = canonicaljson.MaxInteger + 1 },
		"prev events":              func(p *Proto) { p.PrevEvents = make([]id.EventID, MaxPrevEvents+1) },
		"auth events":              func(p *Proto) { p.AuthEvents = make([]id.EventID, MaxAuthEvents+1) },
		"content is invalid UTF-8": func(p *Proto) { p.Content = json.RawMessage("{\"a\":\"\xff\"}") },
	} {
		p := message(`{}`)
		change(&p)
		if e, err := Build(version(t, "11"), p, "domain", vectorKey(t)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, %v", what, e.Event(), err)
		}
	}
	p := message(`{"a":1.5}`)
	if _, err := Build(version(t, "5"), p, "domain", vectorKey(t)); err != nil {
		t.Errorf("version 5 refuses a fraction: %v", err)
	}
}

func TestParseTrustedSurvivesGarbage(t *testing.T) {
	for _, raw := range []string{``, `{`, `{"a"`, `{"a":`, `{"content":,"type":}`, `[`, `{"prev_events":["$a","]`, `{"prev_events":`, `{"type":"}`, `{"hashes":{"sha256"}}`} {
		for _, name := range []id.RoomVersion{"1", "12"} {
			if e, err := ParseTrusted(version(t, name), "$x", []byte(raw)); err == nil && e.ID != "$x" {
				t.Errorf("%q gave %v", raw, e)
			}
		}
	}
}

func label(v id.RoomVersion, key, value string) string {
	return fmt.Sprintf("v%s %s=%.20s", v, key, value)
}
