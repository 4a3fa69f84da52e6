package filter

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestParseRefuses(t *testing.T) {
	for _, bad := range []string{
		`1`, `{`, `{"presence":"x"}`, `{"event_format":"x"}`, `{"room":{"timeline":"x"}}`, `{"room":{"state":1}}`,
		`{"room":{"timeline":{"rooms":"x"}}}`, `{"room":{"timeline":{"types":[1]}}}`, `{"room":{"timeline":{"limit":-1}}}`,
		`{"room":{"timeline":{"rooms":["x"]}}}`, `{"room":{"not_rooms":["x"]}}`, `{"room":{"state":{"senders":["x"]}}}`,
		`{"account_data":{"not_senders":["x"]}}`, `{"event_fields":[` + strings.Repeat(`"type",`, maxFields) + `"type"]}`,
	} {
		if f, err := Parse([]byte(bad)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s became %+v, %v", bad, f, err)
		}
	}
	if _, err := ParseRoomEvents([]byte(`{"rooms":["x"]}`)); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestAllows(t *testing.T) {
	for _, c := range []struct {
		filter, typ, sender string
		want                bool
	}{
		{`{}`, "m.room.message", "@a:h", true},
		{`{"types":[]}`, "m.room.message", "@a:h", false},
		{`{"types":["m.room.*"]}`, "m.room.message", "@a:h", true},
		{`{"types":["m.room.*"]}`, "m.reaction", "@a:h", false},
		{`{"types":["*"],"not_types":["m.room.mess*"]}`, "m.room.message", "@a:h", false},
		{`{"senders":["@b:h"]}`, "x", "@a:h", false},
		{`{"not_senders":["@a:h"]}`, "x", "@a:h", false},
		{`{"senders":["@a:h"],"not_senders":["@a:h"]}`, "x", "@a:h", false},
	} {
		f, err := ParseRoomEvents([]byte(c.filter))
		if err != nil {
			t.Fatal(err)
		}
		if f.Allows(c.typ, "@a:h") != c.want {
			t.Errorf("%s, %s: not %v", c.filter, c.typ, c.want)
		}
	}
	f, err := Parse([]byte(`{"room":{"rooms":["!a"],"timeline":{"not_rooms":["!b"],"contains_url":true,"lazy_load_members":true}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if !f.Room.Allows("!a") || f.Room.Allows("!b") || f.Room.Timeline.AllowsRoom("!b") || !f.Room.Timeline.AllowsRoom("!a") {
		t.Error("rooms are not told apart")
	}
	if !f.Room.Timeline.AllowsContent(json.RawMessage(`{"url":"mxc://x"}`)) || f.Room.Timeline.AllowsContent(json.RawMessage(`{"url":1}`)) {
		t.Error("contents are not told apart")
	}
	if !f.Room.Timeline.LazyLoadMembers || f.Room.Timeline.Unrestricted() || !f.Room.State.Unrestricted() {
		t.Error("the parts of the filter are mixed up")
	}
	if n := f.Room.Timeline.Count(20, 100); n != 20 {
		t.Errorf("the usual count is %d", n)
	}
}

// FuzzMatches compares the wildcards with regular expressions.
func FuzzMatches(f *testing.F) {
	f.Add("m.room.*", "m.room.message")
	f.Add("*a*b*", "xaayb")
	f.Add("a*a", "a")
	f.Fuzz(func(t *testing.T, pattern, typ string) {
		expr, err := regexp.Compile(`(?s)\A` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `.*`) + `\z`)
		if err != nil || strings.ToValidUTF8(typ, "") != typ {
			t.Skip()
		}
		if got, want := matches(pattern, typ), expr.MatchString(typ); got != want {
			t.Errorf("%q against %q: %v", pattern, typ, got)
		}
	})
}

// TestWrongTypes: an error names members as a client knows them.
func TestWrongTypes(t *testing.T) {
	for raw, want := range map[string]string{
		`{"room":{"timeline":{"limit":"x"}}}`: `wrong type of "room.timeline.limit"`,
		`{"room":{"timeline":{"rooms":1}}}`:   `wrong type of "room.timeline.rooms"`,
		`{"presence":{"types":1}}`:            `wrong type of "presence.types"`,
		`[]`:                                  "not an object",
	} {
		if _, err := Parse([]byte(raw)); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", raw, err, want)
		}
	}
	if _, err := ParseRoomEvents([]byte(`{"limit":"x"}`)); err == nil || !strings.HasSuffix(err.Error(), `wrong type of "limit"`) {
		t.Error(err)
	}
}

// TestBounds: the size of a filter and its patterns with wildcards are bounded, plain names are not but by that.
func TestBounds(t *testing.T) {
	list := func(name func(int) string, n int) string {
		names := make([]string, n)
		for i := range names {
			names[i] = name(i)
		}
		raw, err := json.Marshal(map[string]any{"types": names, "not_types": names})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	glob := func(i int) string { return fmt.Sprintf("a%d*", i) }
	plain := func(i int) string { return fmt.Sprintf("m.a%d", i) }
	for _, c := range []struct {
		filter string
		ok     bool
	}{
		{list(glob, maxGlobs), true}, {list(glob, maxGlobs+1), false}, {list(plain, 3000), true},
		{`{"types":["` + strings.Repeat("x", MaxSize-14) + `"]}`, true}, {`{"types":["` + strings.Repeat("x", MaxSize-13) + `"]}`, false},
	} {
		if _, err := ParseRoomEvents([]byte(c.filter)); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%.60s of %d bytes: %v", c.filter, len(c.filter), err)
		}
		if _, err := Parse([]byte(`{"room":{"timeline":` + c.filter + `}}`)); len(c.filter) < MaxSize-30 && (err == nil) != c.ok {
			t.Errorf("%.60s as a filter of timelines: %v", c.filter, err)
		}
	}
}

// TestManyNamesCostNoMore compares a filter of 3,000 names with one of a single one.
func TestManyNamesCostNoMore(t *testing.T) {
	many := make([]string, 3000)
	for i := range many {
		many[i] = fmt.Sprintf("n%d", i)
	}
	raw, err := json.Marshal(map[string]any{"types": many, "not_types": many})
	if err != nil {
		t.Fatal(err)
	}
	cost := func(raw string) time.Duration {
		f, err := ParseRoomEvents([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		best := time.Hour
		for range 5 {
			began := time.Now()
			for range 5000 {
				if f.Allows("m.room.message", "@a:h") {
					t.Fatal("an event passes")
				}
			}
			best = min(best, time.Since(began))
		}
		return best
	}
	if one, all := cost(`{"types":["x"],"not_types":["x"]}`), cost(string(raw)); all > 50*one+time.Millisecond {
		t.Errorf("3,000 names take %v, one takes %v", all, one)
	}
}
