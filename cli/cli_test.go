package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/e2ee/vault"
	"github.com/securecomm/securecomm/homeserver/id"
)

func TestSafe(t *testing.T) {
	for in, want := range map[string]string{
		"hello":                       "hello",
		"a\x1b[31mb":                  "a[31mb",
		"a\x9b31mb":                   "a\ufffd31mb",
		"a\u009b31mb":                 "a31mb",
		"a\nb":                        "a\n    b",
		"a\r2026-01-01  @bob: hi":     "a2026-01-01 @bob: hi",
		"ab\u202egpj.exe":             "abgpj.exe",
		"a\u2028b\u2029c":             "a\n    b\n    c",
		"a\u061cb\u200bc\u2060\ufeff": "abc",
		"pay\u200dpal\u200c":          "paypal",
		"a\u00adb\U000e0041":          "ab",
		"\u06cc\u200c\u0627":          "\u06cc\u200c\u0627",
		"\U0001F469\u200d\U0001F4BB":  "\U0001F469\u200d\U0001F4BB",
		"\u06cc\u200c\u200c\u200cx":   "\u06cc\u200cx",
		"Gr\u00fc\u00dfe \U0001F600":  "Gr\u00fc\u00dfe \U0001F600",
		"a\u3164\u115f\u1160\uffa0\u2800\u034f\U0001d159b":                    "ab",
		"e" + strings.Repeat("\u0301", 9) + "\u034f\u0301\u200b\u20ddf\u0301": "e" + strings.Repeat("\u0301", 4) + "f\u0301",
		"e" + strings.Repeat("\u0301\u200d", 9):                               "e" + strings.Repeat("\u0301\u200d", 4),
		"\u0338[x]":                                                           "[x]",
		"\u0e17\u0e35\u0e48\u0e19\u0e35\u0e48 1\ufe0f\u20e3":                  "\u0e17\u0e35\u0e48\u0e19\u0e35\u0e48 1\ufe0f\u20e3",
		"  a \u00a0\u2003\u3000\t b":                                          "a b",
		"a \ufe0f \u0301\u200b \u2003\u200d\u2003\u200db":                     "a b",
		"if x:\n\tdo  this\n" + strings.Repeat(" ", 60) + "that":              "if x:\n     do this\n        that",
	} {
		if got := safe(in); got != want {
			t.Errorf("safe(%q) is %q, not %q", in, got, want)
		}
	}
}

func TestFileName(t *testing.T) {
	for in, want := range map[string]string{
		"plan.pdf":               "plan.pdf",
		"/etc/passwd":            "passwd",
		`..\..\boot.ini`:         "boot.ini",
		"..":                     "download",
		".bashrc":                "bashrc",
		"-rf":                    "rf",
		"a\nb":                   "a b",
		"":                       "download",
		strings.Repeat("x", 200): strings.Repeat("x", 200),
		strings.Repeat("x", 201): "download",
		"folder/":                "download",
	} {
		if got := fileName(fileMessage{Body: in}); got != want {
			t.Errorf("fileName(%q) is %q, not %q", in, got, want)
		}
	}
	if got := fileName(fileMessage{Body: "a caption", FileName: "x.txt"}); got != "x.txt" {
		t.Errorf("got %q", got)
	}
}

func TestEveryErrorHasAHint(t *testing.T) {
	for _, err := range []error{
		errors.New("something"),
		&client.Error{Status: 500},
		&client.Error{Status: 403, Code: "M_FORBIDDEN"},
		&client.Error{Status: 418, Code: "M_TEAPOT"},
		&client.StagesError{},
		fmt.Errorf("wrapped: %w", client.ErrNoServer),
		id.ErrInvalid,
	} {
		if code, hint := explain(err); code == exitOK || hint == "" || strings.Contains(hint, "\n") {
			t.Errorf("%v: code %d, hint %q", err, code, hint)
		}
	}
	if code, _ := explain(&fs.PathError{Op: "open", Path: "x", Err: syscall.EIO}); code != exitFailure {
		t.Errorf("a broken file has code %d", code)
	}
	refused := &client.Error{Status: 403, Code: "M_FORBIDDEN"}
	_, elsewhere := explain(refused)
	_, login := explain(explainEntry(refused, false))
	_, register := explain(explainEntry(refused, true))
	if strings.Contains(elsewhere, "password") || !strings.Contains(login, "password") || !strings.Contains(register, "--token") {
		t.Errorf("the hints for a refusal are %q, %q at login and %q at registration", elsewhere, login, register)
	}
	if code, _ := explain(&client.Error{Status: 401, Code: "M_UNKNOWN_TOKEN"}); code != exitNotLoggedIn {
		t.Errorf("an ended session has code %d", code)
	}
}

// TestShownEventsAreRemembered fills what a chat remembers: it forgets the older half, and never so much that what a
// limited timeline left out could be shown again.
func TestShownEventsAreRemembered(t *testing.T) {
	chat := &talk{seen: map[id.EventID]bool{}}
	name := func(i int) id.EventID { return id.EventID(fmt.Sprint("$", i)) }
	for i := range maxSeen + 1 {
		chat.remember(name(i))
		chat.remember(name(i))
	}
	if len(chat.seen) != maxSeen/2+1 || len(chat.order) != len(chat.seen) || chat.seen[name(maxSeen/2-1)] || !chat.seen[name(maxSeen/2)] || !chat.seen[name(maxSeen)] {
		t.Errorf("%d events are remembered", len(chat.seen))
	}
	if maxSeen/2 < maxPages*pageSize {
		t.Error("a gap can be longer than what is remembered")
	}
}

func TestLinesAreBounded(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
		ok    bool
	}{
		{"abc\nrest", 3, "abc", true},
		{"abc\r\n", 3, "abc", true},
		{"abcdef\n", 3, "", false},
		{strings.Repeat("x", 10000) + "\n", 10000, strings.Repeat("x", 10000), true},
		{strings.Repeat("x", 10002) + "\n", 10000, "", false},
	} {
		got, err := newApp(Stdio{In: strings.NewReader(c.in)}).readLine(c.limit)
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%.20q with limit %d: %.20q, %v", c.in, c.limit, got, err)
		}
	}
}

// newSession is a session on a vault, without a network.
func newSession(t *testing.T) *session {
	t.Helper()
	key, err := vault.Passphrase("x")
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(t.TempDir()+"/vault", key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	p := &profile{app: newApp(Stdio{In: strings.NewReader(""), Out: t.Output(), Err: t.Output()}), vault: v}
	return &session{app: p.app, profile: p, me: account{User: "@me:h", Device: "D"},
		roomFacts: map[id.RoomID]roomFacts{}, audiences: map[id.RoomID]audience{}}
}

// TestDamagedProfile opens a vault whose last transaction was cut off, which is told, and one that is damaged, which
// is refused.
func TestDamagedProfile(t *testing.T) {
	dir := t.TempDir()
	key, err := vault.KeyFile(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	open := func() (string, error) {
		var notes strings.Builder
		p := &profile{app: newApp(Stdio{In: strings.NewReader(""), Err: &notes}), dir: dir}
		err := p.unlock(t.Context(), key)
		if err == nil {
			err = errors.Join(p.store(recordSession, account{User: "@me:h"}), p.close())
		}
		return notes.String(), err
	}
	if notes, err := open(); err != nil || notes != "" {
		t.Fatalf("a new vault: %q, %v", notes, err)
	}
	path := filepath.Join(dir, vaultFile)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		content []byte
		note    string
		hint    string
	}{
		{append(content[:len(content):len(content)], 1, 2, 3), "Warning: the last change to this profile was cut off", ""},
		{append(content[:len(content)-3:len(content)-3], 1, 2, 3), "", "nothing was changed; restore"},
	} {
		if err := os.WriteFile(path, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		notes, err := open()
		if !strings.HasPrefix(notes, c.note) || (err == nil) != (c.hint == "") {
			t.Errorf("the note is %q, the error %v", notes, err)
		}
		if err != nil {
			if _, hint := explain(err); !strings.HasPrefix(hint, c.hint) {
				t.Errorf("the hint is %q", hint)
			}
		}
	}
}

func TestEncryptionIsNeverForgotten(t *testing.T) {
	s := newSession(t)
	learn := func(content string) roomFacts {
		t.Helper()
		facts, err := s.learn("!r", json.RawMessage(content))
		if err != nil {
			t.Fatal(err)
		}
		return facts
	}
	if facts := learn(`{"algorithm":"m.new"}`); !facts.Encrypted || facts.sendable("!r") == nil {
		t.Errorf("a room with an unknown encryption: %+v", facts)
	}
	if facts := learn(`{"algorithm":"m.megolm.v1.aes-sha2","rotation_period_msgs":5}`); facts.sendable("!r") != nil || facts.RotateMessages != 5 {
		t.Errorf("a room with Megolm: %+v", facts)
	}
	for _, broken := range []string{`{}`, `[]`, `{"algorithm":"m.none"}`, `{"algorithm":7}`} {
		if facts := learn(broken); !facts.Encrypted || facts.Algorithm != megolm || facts.RotateMessages != 5 {
			t.Errorf("after %s: %+v", broken, facts)
		}
	}
	clear(s.roomFacts)
	if facts, err := s.pinned("!r"); err != nil || !facts.Encrypted {
		t.Errorf("in the vault: %+v, %v", facts, err)
	}
}

func TestHistory(t *testing.T) {
	s := newSession(t)
	var all []message
	for i := range maxKept + 1 {
		all = append(all, message{ID: id.EventID(fmt.Sprintf("$%d", i)), Time: int64(i), Body: fmt.Sprint("body ", i)})
	}
	all = append(all, message{ID: "$undecryptable", Time: 1 << 40, undecryptable: true})
	for range 2 { // the second time changes nothing
		if err := s.keep("!r", all); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.keep("!rr", all[:1]); err != nil {
		t.Fatal(err)
	}
	kept := s.profile.vault.Keys(historyKey("!r"))
	if len(kept) != maxKept {
		t.Fatalf("%d messages were kept", len(kept))
	}
	for i, want := range map[int]string{0: "body 1", maxKept - 1: fmt.Sprint("body ", maxKept)} {
		var m message
		if _, err := s.profile.load(kept[i], &m); err != nil || m.Body != want {
			t.Errorf("message %d is %q, %v", i, m.Body, err)
		}
	}
}

func TestMessageKinds(t *testing.T) {
	key := "@bob:h"
	for _, c := range []struct {
		kind, content string
		stateKey      *string
		want, body    string
	}{
		{"m.room.message", `{"msgtype":"m.text","body":"hi"}`, nil, "message", "hi"},
		{"m.room.message", `{"msgtype":"m.emote","body":"waves"}`, nil, "message", "* waves"},
		{"m.room.message", `{"msgtype":"m.image","body":"a.png","info":{"size":7}}`, nil, "file", `file "a.png" (7 bytes)`},
		{"m.room.message", `{"msgtype":"m.text","body":5}`, nil, "other", ""},
		{"m.room.message", `{}`, nil, "other", ""},
		{"m.room.member", `{"membership":"join"}`, &key, "member", "@bob:h is in the room"},
		{"m.reaction", `{}`, nil, "other", ""},
	} {
		m := message{Type: c.kind, StateKey: c.stateKey, Content: json.RawMessage(c.content)}
		if m.describe(); m.Kind != c.want || m.Body != c.body {
			t.Errorf("%s %s: %q %q", c.kind, c.content, m.Kind, m.Body)
		}
	}
}

func TestLine(t *testing.T) {
	a := newApp(Stdio{In: strings.NewReader("")})
	m := message{Kind: "message", Time: time.Date(2026, 1, 2, 3, 4, 0, 0, time.Local).UnixMilli(), Sender: "@a:h", Body: "hi\x1b[2J", Trust: e2ee.Yellow, Reason: "not verified", Encrypted: true, State: stateReceived}
	if got, want := string(a.line(m, nil)), "2026-01-02 03:04  @a:h  [yellow: not verified]  hi[2J"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
