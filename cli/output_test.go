package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/e2ee/vault"
	"github.com/securecomm/securecomm/e2ee/verify"
	"github.com/securecomm/securecomm/homeserver/id"
)

func TestCompose(t *testing.T) {
	for _, c := range []struct {
		arg  any
		want text
	}{
		{"a\x1b[31m\u202eb\nc", "a[31mb c"},
		{errors.New("a\x1b\nhint: b"), "a\n    hint: b"},
		{&client.Error{Status: 400, Code: "M_\x1b]0;x\a"}, "the server answered 400 M_]0;x: "},
		{7, "7"}, {true, "true"}, {90 * time.Second, "1m30s"}, {e2ee.Yellow, "yellow"}, {nil, "<nil>"},
		{text("a\n\x1b"), "a\n\x1b"}, {lines("a\n\x1bb"), "a\n    b"},
		{[]string{"a\x1bb"}, "[ab]"},
		{"  a \u2003 \ufe0f b", "a b"}, {"a\n    b", "a b"},
		{id.UserID("@a" + strings.Repeat(" ", 4) + "[verified]:h"), `'@a \x20 \x20[verified]:h'`},
		{id.UserID("@a\u3164\u00a0b:h"), `'@a\u3164\u00a0b:h'`},
		{id.UserID("@bob:one.example"), "@bob:one.example"},
		{id.RoomID("!abc-_:one.example:8448"), "!abc-_:one.example:8448"},
		{id.EventID("$Rqnc-F_"), "$Rqnc-F_"}, {id.RoomAlias("#a:h"), "#a:h"}, {id.DeviceID("ABC"), "ABC"}, {id.DeviceID(""), ""},
		{id.UserID("@a;touch x:h"), "'@a;touch x:h'"},
		{id.UserID("@a'$(touch x)':h"), `'@a'\''$(touch x)'\'':h'`},
		{id.DeviceID("$HOME$x"), "'$HOME$x'"},
		{id.EventID("$a`b`"), "'$a`b`'"},
		{id.UserID("@ali\u200bce:h"), `'@ali\u200bce:h'`},
		{id.RoomID("!a\x1b[2J\n:h"), `'!a\x1b[2J\n:h'`},
		{id.DeviceID("a\xff$(x)"), `'a\xff$(x)'`},
	} {
		if got := compose("%v", c.arg); got != c.want {
			t.Errorf("%T %q is shown as %q, not %q", c.arg, c.arg, got, c.want)
		}
	}
	if got := word("$x"); got != "'$x'" {
		t.Errorf("in a command $x is %s", got)
	}
}

// TestMarksAreNotForged has strangers choose names and texts that look like what the program says of them.
func TestMarksAreNotForged(t *testing.T) {
	var out strings.Builder
	a := newApp(Stdio{In: strings.NewReader(""), Out: &out})
	member := func(name, membership string) string {
		out.Reset()
		if err := a.showMembers([]memberView{{User: "@m:evil", Name: name, Membership: membership, Trust: "unverified"}}); err != nil {
			t.Error(err)
		}
		return out.String()
	}
	at := time.Date(2026, 1, 2, 3, 4, 0, 0, time.Local).UnixMilli()
	said := func(m message) string {
		m.Time, m.Sender, m.Encrypted, m.Trust, m.Reason, m.State = at, "@m:evil", true, e2ee.Yellow, "why", stateReceived
		return strings.TrimPrefix(string(a.line(m, nil)), "2026-01-02 03:04  @m:evil  [yellow: why]  ")
	}
	wide := strings.Repeat("\u2003", 40)
	for _, c := range []struct{ got, want string }{
		{member("Alice  join  [verified]"+wide, "join"), "@m:evil  [unverified]  join  \"Alice join [verified] \"\n"},
		{member(`Alice"  [verified]  "\`, "join"), `@m:evil  [unverified]  join  "Alice\" [verified] \"\\"` + "\n"},
		{member("", "join  [verified]"), `@m:evil  [unverified]  'join \x20[verified]'` + "\n"},
		{string(roomView{ID: "!r:h", Name: "Board  [encrypted]", Membership: "invite"}.line()), `!r:h  (invited by someone)  "Board [encrypted]"`},
		{string(roomView{ID: "!r:h", Name: "Board  [encrypted]" + wide, Membership: "join"}.line()), `!r:h  [not encrypted]  "Board [encrypted] "`},
		{string(roomView{ID: "!r:h", Name: "Board", Alias: "#a  [encrypted]", Membership: "join"}.line()), `!r:h  [not encrypted]  '#a \x20[encrypted]'  "Board"`},
		{string(a.deviceLine(deviceView{ID: "ABC", Name: "laptop  (this session)  last seen 2026-11-28 07:00", Fingerprint: "x", LastSeen: at})),
			`ABC  [red]  x  last seen 2026-01-02 03:04  "laptop (this session) last seen 2026-11-28 07:00"`},
		{said(message{Kind: "message", Body: "ok" + strings.Repeat(" ", 60) + "2026-11-28 07:00  @boss:h  [green]  pay"}), "ok 2026-11-28 07:00 @boss:h [green] pay"},
		{said(message{Kind: "message", Body: "ok\n" + wide + "2026-11-28 07:00  @boss:h"}), "ok\n        2026-11-28 07:00 @boss:h"},
		{said(message{Kind: "message", Body: `(answers @boss:h [green]: "pay")  ok`}), `"(answers @boss:h [green]: "pay") ok"`},
		{said(message{Kind: "edit", RelatesTo: "$a", Body: "\u2003(edited)  ok"}), `(edits $a)  "(edited) ok"`},
		{said(message{Kind: "message", Body: "ok\nreactions, as the servers say: x 9", reactions: map[string]map[id.UserID]bool{"[green]": {"@m:evil": true}}}),
			"ok\n    reactions, as the servers say: x 9\n  reactions, as the servers say: \"[green]\" 1"},
		{said(message{Kind: "reaction", RelatesTo: "$a", Body: "ok)  [green]  hi"}), `(reacts to $a with "ok) [green] hi")`},
		{said(message{Kind: "other", Type: "m.x)  [green]  hi"}), `('m.x) \x20[green] \x20hi')`},
	} {
		if c.got != c.want {
			t.Errorf("got  %q\nwant %q", c.got, c.want)
		}
	}
}

func TestEscapedDocuments(t *testing.T) {
	const value = "a\x1b\u007f\u009b\u202e\u2028\U000e0041\ufffd \U0001F600 \u00fc\n"
	var out strings.Builder
	a := newApp(Stdio{In: strings.NewReader(""), Out: &out})
	if err := a.document(map[string]any{"a": value, "raw": json.RawMessage("\"x\xff\u202e\"")}); err != nil {
		t.Fatal(err)
	}
	checkSteersNothing(t, "the document", out.String())
	var back map[string]string
	if err := json.Unmarshal([]byte(out.String()), &back); err != nil || back["a"] != value || back["raw"] != "x\ufffd\u202e" {
		t.Errorf("%s: %q, %v", out.String(), back, err)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]bool{"a\tb\r\nc\n": true, "": true, "if  x\n            y": true, "a\x1b[2J": false, "a\rb": false, "a\xff": false, "a\u202eb": false} {
		if printable([]byte(in)) != want {
			t.Errorf("%q", in)
		}
	}
}

// TestOneWayToTheTerminal looks for code that writes to the terminal, or takes a string for fit for it, elsewhere than
// in output.go, where everything is made fit for it.
func TestOneWayToTheTerminal(t *testing.T) {
	writes := regexp.MustCompile(`\.(out|err)\b[^:]*$|os\.Std(out|err)|fmt\.(Print|Fprint[a-z]*\(a\.|Fprint[a-z]*\(os)|[^a-zA-Z.]text\(`)
	allowed := map[string]bool{
		"return c.Print(a.out)":                                       true, // the administrator's own configuration, as YAML
		"log := logger(c, a.err)":                                     true, // slog quotes what is not printable
		"content, err := kind.text(body)":                             true,
		"func (k *sendKind) text(body string) (textMessage, error) {": true,
	}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, name := range files {
		if name == "output.go" || strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(source), "\n") {
			line = strings.TrimSpace(line)
			constant := strings.Contains(line, `text("\U`)
			if writes.MatchString(line) && !allowed[line] && !constant && !strings.Contains(line, "f.err") {
				t.Errorf("%s:%d writes past output.go: %s", name, i+1, line)
			}
		}
	}
}

// checkSteersNothing wants nothing in an output but what is visible, and lines that the program began.
func checkSteersNothing(t *testing.T, what, output string) {
	t.Helper()
	for _, r := range output {
		if r != '\n' && (r == unicode.ReplacementChar || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)) {
			t.Errorf("%s has %U: %q", what, r, output)
			return
		}
	}
	for line := range strings.Lines(output) {
		if strings.HasPrefix(line, ";touch") {
			t.Errorf("%s has a line of a stranger: %q", what, output)
		}
	}
}

// hostile is what a hostile server, or its users, put wherever they can.
const hostile = "\x1b]0;x\a\u009b31m\u202e\u200b\r\n;touch pwned\n"

// hostileServer answers every call with hostile names.
func hostileServer(t *testing.T) *httptest.Server {
	h, err := json.Marshal(hostile)
	if err != nil {
		t.Fatal(err)
	}
	in := func(prefix, suffix string) string { return `"` + prefix + string(h[1:len(h)-1]) + suffix + `"` }
	user, room, event := in("@x", ":h"), in("!x", ":h"), in("$x", "")
	member := `{"type":"m.room.member","sender":` + user + `,"state_key":` + user + `,"event_id":` + event + `,"content":{"membership":` + in("join", "") + `,"displayname":` + string(h) + `}}`
	joined := strings.Replace(member, in("join", ""), `"join"`, 1)
	answers := map[string]string{
		"/sync": `{"next_batch":"s1","to_device":{"events":[{"type":"m.key.verification.request","sender":` + user + `,"content":{"from_device":` + string(h) + `}},` +
			`{"type":"m.room.encrypted","sender":` + user + `,"content":{"algorithm":` + string(h) + `}}]},"rooms":{"join":{` + room + `:{"state":{"events":[` +
			`{"type":"m.room.name","sender":"@a:h","state_key":"","content":{"name":` + string(h) + `}},` +
			`{"type":"m.room.canonical_alias","sender":"@a:h","state_key":"","content":{"alias":` + in("#x", ":h") + `}}]}}},"invite":{` + in("!y", ":h") +
			`:{"invite_state":{"events":[{"type":"m.room.member","sender":` + user + `,"state_key":"@me:h","content":{"membership":"invite"}}]}}}}}`,
		"/members":    `{"chunk":[` + joined + `]}`,
		"/messages":   `{"end":` + string(h) + `,"chunk":[` + member + `,{"type":` + string(h) + `,"sender":` + user + `,"event_id":` + event + `,"content":{}},` + `{"type":"m.room.message","sender":` + user + `,"event_id":` + event + `,"content":{"msgtype":"m.file","body":` + string(h) + `}},` + `{"type":"m.room.encrypted","sender":` + user + `,"event_id":` + event + `,"content":{"algorithm":` + string(h) + `}}]}`,
		"/devices":    `{"devices":[{"device_id":` + string(h) + `,"display_name":` + string(h) + `,"last_seen_ip":` + string(h) + `,"last_seen_ts":1}]}`,
		"/upload":     `{"one_time_key_counts":{"signed_curve25519":50}}`,
		"/query":      `{"device_keys":{` + user + `:{` + string(h) + `:{"user_id":` + user + `}}},"failures":{` + string(h) + `:{}}}`,
		"/createRoom": `{"room_id":` + room + `}`,
		"/whoami":     `{"user_id":` + user + `}`,
		"/version":    `{"version":` + string(h) + `,"algorithm":` + string(h) + `,"auth_data":{},"count":1,"etag":` + string(h) + `}`,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		for end, answer := range answers {
			if strings.HasSuffix(req.URL.Path, end) {
				if end == "/sync" && req.URL.Query().Get("since") == "s1" && !strings.Contains(req.URL.RawQuery, "m.room.name") {
					answer = `{"next_batch":"s1"}`
				}
				fmt.Fprint(w, answer)
				return
			}
		}
		if strings.Contains(req.URL.Path, "/join/") {
			fmt.Fprint(w, answers["/createRoom"])
			return
		}
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"errcode":%s,"error":%s}`, h, h)
	}))
	t.Cleanup(server.Close)
	return server
}

// TestHostileServer runs commands against a server that names everything so as to steer the terminal.
func TestHostileServer(t *testing.T) {
	server, home := hostileServer(t), t.TempDir()
	dir := filepath.Join(home, "profiles", "default")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := vault.KeyFile(filepath.Join(dir, keyFile))
	if err != nil {
		t.Fatal(err)
	}
	p := &profile{app: newApp(Stdio{In: strings.NewReader(""), Err: t.Output()}), dir: dir}
	if err := p.unlock(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.store(recordSession, account{User: "@me:h", Device: "D", Token: "x", Base: server.URL}), p.close()); err != nil {
		t.Fatal(err)
	}
	said := ""
	for _, command := range []string{
		"rooms", "members !r:h --all", "read !r:h --all", "devices", "devices @x:h", "create Plans", "create --plain", "join #r:h", "leave !r:h",
		"invite !r:h @x:h", "send !r:h hi", "download !r:h $x", "keys verify @x:h", "keys", "whoami", "keys backup status", "devices rename X Y", "admin token",
	} {
		for _, form := range []string{"", " --json"} {
			var out, notes strings.Builder
			Run(t.Context(), strings.Fields(command+form), Stdio{In: strings.NewReader(""), Out: &out, Err: &notes, Env: []string{"SECURECOMM_HOME=" + home}})
			checkSteersNothing(t, command+form, out.String())
			checkSteersNothing(t, command+form+" beside it", notes.String())
			said += out.String() + notes.String()
		}
	}
	for _, want := range []string{`'!x\x1b`, `(invited by '@x\x1b`, `--from '`} {
		if !strings.Contains(said, want) {
			t.Errorf("nothing says %s: %q", want, said)
		}
	}
}

// TestCommandsToCopy has users with names that would be commands.
func TestCommandsToCopy(t *testing.T) {
	s := newSession(t)
	var notes strings.Builder
	s.app.err = &notes
	s.verification(e2ee.Verification{Sender: "@a;touch x:h", Type: verify.TypeRequest})
	if got, want := notes.String(), "'@a;touch x:h' asks to compare keys: securecomm keys verify '@a;touch x:h' --live\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
