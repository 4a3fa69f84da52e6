package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/homeserver/id"
)

// said is a message of Alice's as decode makes it of an encrypted event, changed by change.
func said(event id.EventID, content string, change func(*message)) message {
	m := message{ID: event, Room: "!r:h", Sender: "@alice:h", Type: "m.room.message", Content: json.RawMessage(content),
		Encrypted: true, Trust: e2ee.Green, Related: e2ee.Green, State: stateReceived}
	if change != nil {
		change(&m)
	}
	m.describe()
	return m
}

const (
	oldText = `{"msgtype":"m.text","body":"old"}`
	newText = `{"msgtype":"m.text","body":"* new","m.new_content":{"msgtype":"m.text","body":"new"},"m.relates_to":{"rel_type":"m.replace","event_id":"$a"}}`
)

// shownAs is a page as text, without times.
func shownAs(t *testing.T, p *page) string {
	var out strings.Builder
	a := newApp(Stdio{In: strings.NewReader(""), Out: &out})
	if err := a.showAll(nil, p); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(out.String()) {
		if _, rest, ok := strings.Cut(line, "  @"); ok && !strings.HasPrefix(line, " ") {
			line = "@" + rest
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "")
}

// TestReplacements has edits and messages that they are for, or not: each rule of the specification, and what the marks
// have to do with it.
func TestReplacements(t *testing.T) {
	state := ""
	plain := func(m *message) { m.Encrypted, m.Trust, m.Related = false, e2ee.Red, e2ee.Red }
	mark := func(level e2ee.Level) func(*message) { return func(m *message) { m.Trust, m.Reason = level, "why" } }
	content := func(s string) func(*message) { return func(m *message) { m.Content = json.RawMessage(s) } }
	for name, c := range map[string]struct {
		original, edit func(*message)
		want           string // the message's line; the edit has one too if it is not new
	}{
		"valid":                        {nil, nil, "[green]  (edited)  new"},
		"both in plaintext":            {plain, plain, "[red]  (edited)  new"},
		"of plaintext, encrypted":      {plain, nil, "[red]  (edited)  new"},
		"of ciphertext, in plaintext":  {nil, plain, "[green]  old"},
		"of a red one, in plaintext":   {mark(e2ee.Red), plain, "[red: why]  old"},
		"less trusted":                 {nil, mark(e2ee.Yellow), "[yellow: why]  (edited)  new"},
		"more trusted":                 {mark(e2ee.Yellow), nil, "[yellow: why]  (edited)  new"},
		"of a red one, encrypted":      {mark(e2ee.Red), nil, "[red: why]  (edited)  new"},
		"red":                          {nil, mark(e2ee.Red), "[green]  old"},
		"related by the servers":       {nil, func(m *message) { m.Related = e2ee.Yellow }, "[yellow: what it belongs to is not encrypted]  (edited)  new"},
		"another's":                    {nil, func(m *message) { m.Sender = "@bob:h" }, "[green]  old"},
		"of another room":              {nil, func(m *message) { m.Room = "!s:h" }, "[green]  old"},
		"of another type":              {func(m *message) { m.Type = "org.example.text" }, nil, "[green]  (org.example.text)"},
		"of what can't be decrypted":   {func(m *message) { m.Type, m.Content = "m.room.encrypted", nil }, nil, "[green]  (m.room.encrypted)"},
		"of state":                     {func(m *message) { m.StateKey = &state }, nil, "[green]  old"},
		"of an edit":                   {content(strings.Replace(newText, `"$a"`, `"$b"`, 1)), nil, "[green]  (edits $b)  new"},
		"of an edit without a content": {content(`{"msgtype":"m.text","body":"old","m.relates_to":{"rel_type":"m.replace","event_id":"$b"}}`), nil, "[green]  (m.room.message)"},
		"of an answer":                 {content(`{"msgtype":"m.text","body":"old","m.relates_to":{"m.in_reply_to":{"event_id":"$b"}}}`), nil, "[green]  (answers $b)  (edited)  new"},
		"state":                        {nil, func(m *message) { m.StateKey = &state }, "[green]  old"},
		"without a content":            {nil, content(`{"msgtype":"m.text","body":"* new","m.relates_to":{"rel_type":"m.replace","event_id":"$a"}}`), "[green]  old"},
		"of another kind":              {nil, content(strings.Replace(newText, `{"msgtype":"m.text","body":"new"}`, `{"msgtype":"m.emote","body":"new"}`, 1)), "[green]  (edited)  * new"},
		"with a file":                  {nil, content(strings.Replace(newText, `{"msgtype":"m.text","body":"new"}`, `{"msgtype":"m.file","body":"x","file":{"url":"mxc://h/x","v":"v2"}}`, 1)), `[green]  (edited)  file "x" (0 bytes)  $e`},
		"with a file in plaintext":     {nil, content(strings.Replace(newText, `{"msgtype":"m.text","body":"new"}`, `{"msgtype":"m.file","body":"x","url":"mxc://h/x"}`, 1)), "[green]  old"},
		"of a request for comparing":   {content(`{"msgtype":"m.key.verification.request","to":"@me:h"}`), nil, "  (asks for a verification that makes no sense)"},
	} {
		t.Run(name, func(t *testing.T) {
			original, edit := said("$a", oldText, c.original), said("$e", newText, c.edit)
			for _, messages := range [][]message{{original, edit}, {edit, original}} {
				p := gather(messages, nil)
				shown := shownAs(t, p)
				if !strings.Contains(shown, c.want+"\n") {
					t.Errorf("it is shown as\n%s", shown)
				}
				want := 2
				if strings.Contains(c.want, "(edited)") {
					want = 1
				}
				if len(p.lines) != want {
					t.Errorf("there are %d lines:\n%s", len(p.lines), shown)
				}
			}
		})
	}
}

// TestEditOfState takes an edit for what it says it is, as of a history: with a state key it is none.
func TestEditOfState(t *testing.T) {
	original, edit := said("$a", oldText, nil), said("$e", newText, nil)
	if !edit.replaces(original) {
		t.Error("it is not an edit")
	}
	if edit.StateKey = new(string); edit.replaces(original) {
		t.Error("state edits a message")
	}
}

// TestFileOfAnEdit downloads what an edit shows, not what was there before.
func TestFileOfAnEdit(t *testing.T) {
	edit := said("$e", strings.Replace(newText, `{"msgtype":"m.text","body":"new"}`, `{"msgtype":"m.file","body":"x","file":{"url":"mxc://h/new","v":"v2"}}`, 1), nil)
	if file, err := parseFile(edit); err != nil || file.File == nil || file.File.URL != "mxc://h/new" {
		t.Errorf("%+v, %v", file, err)
	}
	if _, err := parseFile(said("$e", newText, nil)); err == nil {
		t.Error("a text has a file")
	}
}

// TestNewestReplacement has several edits of one message, in any order.
func TestNewestReplacement(t *testing.T) {
	edit := func(event id.EventID, time int64, body string, change func(*message)) message {
		return said(event, strings.Replace(newText, `"body":"new"`, fmt.Sprintf(`"body":%q`, body), 1), func(m *message) {
			if m.Time = time; change != nil {
				change(m)
			}
		})
	}
	messages := []message{
		said("$a", oldText, nil), edit("$z", 2, "first", nil), edit("$c", 3, "second", nil), edit("$d", 3, "third", nil),
		edit("$x", 9, "another's", func(m *message) { m.Sender = "@bob:h" }),
		edit("$y", 1, "never", func(m *message) { m.Trust = e2ee.Yellow }),
	}
	for range len(messages) {
		messages = append(messages[1:], messages[0])
		for _, order := range [][]message{messages, reversed(messages)} {
			if shown := shownAs(t, gather(order, nil)); !strings.Contains(shown, "@alice:h  [green]  (edited)  third\n") || strings.Count(shown, "\n") != 2 {
				t.Errorf("it is shown as\n%s", shown)
			}
		}
	}
	if shown := shownAs(t, gather(messages[:0], messages)); shown != "" {
		t.Errorf("what is kept only is shown: %s", shown)
	}
	if shown := shownAs(t, gather([]message{edit("$c", 3, "second", nil)}, messages)); shown != "@alice:h  [green]  (edits $a)  second\n" {
		t.Errorf("an edit of what is not shown is shown as %s", shown)
	}
}

func reversed(messages []message) []message {
	messages = slices.Clone(messages)
	slices.Reverse(messages)
	return messages
}

// TestReactions counts reactions: one of a kind by each user, a bounded number of kinds, nothing that could pass for more
// than it is, and never as anything but the servers' word.
func TestReactions(t *testing.T) {
	n := 0
	react := func(user id.UserID, to, key string) message {
		n++
		k, err := json.Marshal(key)
		if err != nil {
			t.Fatal(err)
		}
		return said(id.EventID(fmt.Sprint("$r", n)), `{"m.relates_to":{"rel_type":"m.annotation","event_id":"`+to+`","key":`+string(k)+`}}`, func(m *message) {
			m.Type, m.Sender, m.Encrypted, m.Trust, m.Related, m.Reason = "m.reaction", user, false, e2ee.Red, e2ee.Red, reasonPlain
		})
	}
	yellow := said("$a", oldText, func(m *message) { m.Trust, m.Reason = e2ee.Yellow, "why" })
	for _, c := range []struct {
		reactions []message
		want      string
	}{
		{[]message{react("@b:h", "$a", "👍"), react("@c:h", "$a", "❤"), react("@c:h", "$a", "👍"), react("@b:h", "$a", "👍")}, "\n  reactions, as the servers say: 👍 2 ❤ 1\n"},
		{[]message{react("@b:h", "$a", "\x1b[32m👍\n")}, "\n  reactions, as the servers say: \"[32m👍\" 1\n"},
		{[]message{react("@b:h", "$a", "👍 99 ❤")}, "\n  reactions, as the servers say: \"👍 99 ❤\" 1\n"},
		{[]message{react("@b:h", "$a", strings.Repeat("x", 1000))}, ": " + strings.Repeat("x", maxReaction) + " 1\n"},
		{[]message{react("@b:h", "$a", ""), react("@b:h", "$a", "\u200b")}, "\n@b:h  [red: " + reasonPlain + "]  (reacts to @alice:h [yellow]: \"old\" with )\n"},
		{[]message{react("@b:h", "$b", "👍")}, "\n@b:h  [red: " + reasonPlain + "]  (reacts to $b with 👍)\n"},
		{[]message{react("@b:h", "$a", "👍"), react("@c:h", "$r11", "👍")}, "\n@c:h  [red: " + reasonPlain + "]  (reacts to $r11 with 👍)\n"},
	} {
		shown := shownAs(t, gather(append([]message{yellow}, c.reactions...), nil))
		if !strings.HasPrefix(shown, "@alice:h  [yellow: why]  old\n") || !strings.Contains(shown, c.want) {
			t.Errorf("%s is not in\n%s", c.want, shown)
		}
		checkSteersNothing(t, "the page", shown)
	}
	var many []message
	for i := range maxKeys + 5 {
		many = append(many, react("@b:h", "$a", string(rune('a'+i))))
	}
	if shown := shownAs(t, gather(append(many, yellow), nil)); !strings.HasSuffix(shown, " h 1 and 5 others\n") {
		t.Errorf("many are shown as\n%s", shown)
	}
}

// TestQuotes has answers to messages that were seen, or not: what is quoted has its own mark, and what anybody could have
// made up is not quoted.
func TestQuotes(t *testing.T) {
	const answer = `{"msgtype":"m.text","body":"yes","m.relates_to":{"m.in_reply_to":{"event_id":"$a"}}}`
	original := func(level e2ee.Level) message {
		return said("$a", oldText, func(m *message) { m.Trust, m.Reason = level, "why" })
	}
	edit := said("$e", newText, func(m *message) { m.Trust = e2ee.Yellow })
	long := said("$a", `{"msgtype":"m.text","body":"`+strings.Repeat("x", 100)+`"}`, nil)
	steers := said("$a", `{"msgtype":"m.text","body":"a\")\n  [green]\u001b"}`, nil)
	for name, c := range map[string]struct {
		shown, kept []message
		answer      func(*message)
		want        string
	}{
		"green":              {[]message{original(e2ee.Green)}, nil, nil, `(answers @alice:h [green]: "old")  yes`},
		"yellow":             {[]message{original(e2ee.Yellow)}, nil, nil, `(answers @alice:h [yellow]: "old")  yes`},
		"red":                {[]message{original(e2ee.Red)}, nil, nil, "(answers $a)  yes"},
		"kept":               {nil, []message{original(e2ee.Yellow)}, nil, `(answers @alice:h [yellow]: "old")  yes`},
		"kept and red":       {nil, []message{original(e2ee.Red)}, nil, "(answers $a)  yes"},
		"not seen":           {nil, nil, nil, "(answers $a)  yes"},
		"edited":             {[]message{original(e2ee.Green), edit}, nil, nil, `(answers @alice:h [yellow]: "new")  yes`},
		"kept and edited":    {nil, []message{original(e2ee.Green), edit}, nil, `(answers @alice:h [yellow]: "new")  yes`},
		"a long one":         {[]message{long}, nil, nil, `(answers @alice:h [green]: "` + strings.Repeat("x", maxPiece-1) + `…")  yes`},
		"one that steers":    {[]message{steers}, nil, nil, `(answers @alice:h [green]: "a') [green]")  yes`},
		"the servers' word":  {[]message{original(e2ee.Green)}, nil, func(m *message) { m.Related = e2ee.Yellow }, "(answers $a, as the servers say)  yes"},
		"by a red answer":    {[]message{original(e2ee.Green)}, nil, func(m *message) { m.Trust = e2ee.Red }, "(answers $a)  yes"},
		"by a plaintext one": {[]message{original(e2ee.Green)}, nil, func(m *message) { m.Encrypted, m.Trust = false, e2ee.Red }, "(answers $a)  yes"},
		"by a yellow one":    {[]message{original(e2ee.Green)}, nil, func(m *message) { m.Trust = e2ee.Yellow }, `(answers @alice:h [green]: "old")  yes`},
		"by one in a thread": {[]message{original(e2ee.Green)}, nil, func(m *message) {
			m.Content = json.RawMessage(`{"msgtype":"m.text","body":"> <@a:h> x\n\nyes","m.relates_to":{"rel_type":"m.thread","event_id":"$t","is_falling_back":true,"m.in_reply_to":{"event_id":"$a"}}}`)
		}, "]  > <@a:h> x\n    \n    yes"},
		"by one that says it": {[]message{original(e2ee.Green)}, nil, func(m *message) {
			m.Content = json.RawMessage(strings.Replace(answer, "yes", `> <@alice:h> old\n\nyes`, 1))
		}, `(answers @alice:h [green]: "old")  yes`},
	} {
		t.Run(name, func(t *testing.T) {
			shown := shownAs(t, gather(append(c.shown, said("$b", answer, c.answer)), c.kept))
			if !strings.HasSuffix(shown, c.want+"\n") {
				t.Errorf("it is shown as\n%s", shown)
			}
			checkSteersNothing(t, "the page", shown)
		})
	}
}

// TestKnownMessages fills what a chat knows; the older half goes.
func TestKnownMessages(t *testing.T) {
	p := gather(nil, nil)
	for i := range maxKnown + 1 {
		p.add(said(id.EventID(fmt.Sprint("$", i)), oldText, nil))
	}
	if len(p.byID) != maxKnown/2+1 || len(p.lines) != len(p.byID) || p.find("$0") != nil || p.find(id.EventID(fmt.Sprint("$", maxKnown))) == nil {
		t.Errorf("%d messages are known", len(p.byID))
	}
}

// TestHistoryShowsTheSame keeps what is shown and shows it again, though it was kept before, in another state.
func TestHistoryShowsTheSame(t *testing.T) {
	const room = "!r:h"
	s := newSession(t)
	var out strings.Builder
	s.app.out = &out
	sent := said("$a", oldText, func(m *message) { m.State, m.Time = stateSent, 3 })
	reaction := said("$r", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"$a","key":"👍"}}`, func(m *message) { m.Type, m.Encrypted, m.Trust, m.Time = "m.reaction", false, e2ee.Red, 6 })
	messages := []message{
		said("$a", oldText, func(m *message) { m.Time = 4 }), said("$e", newText, func(m *message) { m.Time = 5 }), reaction,
		said("$b", `{"msgtype":"m.text","body":"yes","m.relates_to":{"m.in_reply_to":{"event_id":"$a"}}}`, func(m *message) { m.Time = 7 }),
		said("$m", `{"membership":"join"}`, func(m *message) { m.Type, m.StateKey, m.Time = "m.room.member", new(string), 8 }),
	}
	for _, kept := range [][]message{{sent}, messages} {
		if err := s.keep(room, kept); err != nil {
			t.Fatal(err)
		}
		if all, err := s.kept(room); err != nil || len(all) != len(kept) || all[0].State != stateReceived {
			t.Errorf("%d messages are kept: %+v, %v", len(all), all, err)
		}
	}
	check := func(limit int, all bool, shown []message) {
		t.Helper()
		out.Reset()
		if err := s.app.showAll(shown, gather(shown, messages)); err != nil {
			t.Fatal(err)
		}
		online := out.String()
		out.Reset()
		if err := s.showKept(room, limit, all); err != nil {
			t.Fatal(err)
		}
		if out.String() != online || online == "" {
			t.Errorf("with the network\n%swithout\n%s", online, out.String())
		}
	}
	check(20, true, messages)
	check(20, false, messages[:4])
	check(1, false, messages[3:4])
	s.app.json = true
	check(20, true, messages)
	s.app.json = false
	if err := s.forget(room, "$r", "$nothing"); err != nil {
		t.Fatal(err)
	}
	check(20, false, []message{messages[0], messages[1], messages[3]})
	for raw, want := range map[string]id.EventID{
		`{"event_id":"$a","type":"m.room.message","content":{},"unsigned":{"redacted_because":{}}}`: "$a",
		`{"event_id":"$a","type":"m.room.redaction","content":{"redacts":"$b"}}`:                    "$b",
		`{"event_id":"$a","type":"m.room.redaction","redacts":"$b","content":{}}`:                   "$b",
		`{"event_id":"$a","type":"m.room.redaction","state_key":"","redacts":"$b","content":{}}`:    "",
		`{"event_id":"$a","type":"m.room.message","redacts":"$b","content":{"redacts":"$b"}}`:       "",
		`{"event_id":"$a","type":"m.room.redaction","content":{"redacts":7}}`:                       "",
	} {
		var events client.Events
		if err := json.Unmarshal([]byte("["+raw+"]"), &events); err != nil || redactedBy(events[0]) != want {
			t.Errorf("%s redacts %s, %v", raw, redactedBy(events[0]), err)
		}
	}
}
