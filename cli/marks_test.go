package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestMarks shows events of an encrypted room: what was not decrypted here is red, of whatever type it is and whatever
// else the server makes of it.
func TestMarks(t *testing.T) {
	s := newSession(t)
	s.machine = openMachine(t, "@me:h")
	if err := s.pin("!r:h", roomFacts{Encrypted: true, Algorithm: megolm}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.machine.ShareRoomKey("!r:h", e2ee.Sharing{Members: []id.UserID{"@me:h"}}); err != nil {
		t.Fatal(err)
	}
	const text, file = `{"msgtype":"m.text","body":"hi"}`, `"file":{"url":"mxc://h/x","v":"v2"}`
	for i, c := range []struct {
		sealed        bool
		kind, content string
		stateKey      string // as JSON, with its name
		want          e2ee.Level
	}{
		{true, "m.room.message", text, "", e2ee.Green},
		{true, "m.room.message", `{"msgtype":"m.file","body":"x",` + file + `}`, "", e2ee.Green},
		{true, "m.room.message", `{"msgtype":"m.file","body":"x","url":"mxc://h/x",` + file + `}`, "", e2ee.Green},
		{true, "m.room.message", `{"msgtype":"m.image","body":"x","url":"mxc://h/x"}`, "", e2ee.Red},
		{true, "m.room.message", `{"msgtype":"m.image","body":"x","url":"mxc://h/x","file":null}`, "", e2ee.Red},
		{true, "m.room.message", `{"msgtype":"m.image","body":"x","url":"mxc://h/x","file":7}`, "", e2ee.Red},
		{true, "m.room.message", `{"msgtype":"m.image","body":"x"}`, "", e2ee.Red},
		{false, "m.room.message", text, "", e2ee.Red},
		{false, "m.room.message", text, `"state_key":"",`, e2ee.Red},
		{false, "m.room.message", `{"msgtype":"m.file","body":"x",` + file + `}`, `"state_key":"x",`, e2ee.Red},
		{false, "m.room.member", `{"membership":"join"}`, `"state_key":"@bob:h",`, e2ee.Red},
		{false, "m.room.encrypted", text, `"state_key":"",`, e2ee.Red},
		{false, "m.room.encrypted", text, "", e2ee.Red},
		{false, "org.example.invented", text, "", e2ee.Red},
		{false, "org.example.invented", text, `"state_key":"",`, e2ee.Red},
	} {
		if c.sealed {
			sealed, err := s.machine.EncryptRoomEvent("!r:h", c.kind, json.RawMessage(c.content))
			if err != nil {
				t.Fatal(err)
			}
			c.kind, c.content = "m.room.encrypted", string(sealed)
		}
		raw := fmt.Sprintf(`[{"event_id":"$%d","sender":"@me:h","origin_server_ts":1,"type":%q,%s"content":%s}]`, i, c.kind, c.stateKey, c.content)
		var events client.Events
		if err := json.Unmarshal([]byte(raw), &events); err != nil || len(events) != 1 {
			t.Fatalf("%s: %v", raw, err)
		}
		m, ok := s.decode("!r:h", events[0])
		if !ok || m.Trust != c.want || m.Reason == "" {
			t.Errorf("%d %s %s: %v, %s: %s", i, c.kind, c.stateKey, ok, m.Trust, m.Reason)
		}
		if shown := string(s.app.line(m, nil)); !strings.Contains(shown, "["+c.want.String()) {
			t.Errorf("%d is shown as %s", i, shown)
		}
	}
	var kept message
	if err := json.Unmarshal([]byte(`{"trust":"","body":"kept by an older version"}`), &kept); err != nil || kept.Trust != e2ee.Red {
		t.Errorf("what has no mark is %s, %v", kept.Trust, err)
	}
}

// TestPlainFilesOfEncryptedMessages has messages carry files that are not encrypted: nothing is fetched under the lock
// of an encrypted one.
func TestPlainFilesOfEncryptedMessages(t *testing.T) {
	for _, encrypted := range []bool{true, false} {
		s := newSession(t)
		fetched := 0
		s.client = &client.Client{Base: "https://h", HTTP: &http.Client{Transport: answers(func(*http.Request) (int, string) {
			fetched++
			return 200, "exchanged"
		})}}
		m := message{Kind: "file", Encrypted: encrypted, Trust: e2ee.Green, Content: json.RawMessage(`{"msgtype":"m.file","body":"x","url":"mxc://h/x"}`)}
		_, _, err := s.fetch(t.Context(), m)
		if code, _ := explain(err); encrypted && (err == nil || code != exitUnsafe || fetched > 0) || !encrypted && err != nil {
			t.Errorf("encrypted %v: fetched %d times, %v", encrypted, fetched, err)
		}
	}
}

// TestAnotherEventIsNotTaken has a server answer with another event than was asked for.
func TestAnotherEventIsNotTaken(t *testing.T) {
	c := &client.Client{Base: "https://h", HTTP: &http.Client{Transport: answers(func(*http.Request) (int, string) {
		return 200, `{"event_id":"$a","type":"m.room.message","sender":"@a:h","content":{}}`
	})}}
	if _, err := c.Event(t.Context(), "!r:h", "$a"); err != nil {
		t.Error(err)
	}
	if e, err := c.Event(t.Context(), "!r:h", "$b"); err == nil {
		t.Errorf("got %s", e.ID)
	}
}

// TestRelated shows edits, reactions and answers: each as what it is, naming what it belongs to, and none better marked
// than the relation is.
func TestRelated(t *testing.T) {
	s := newSession(t)
	s.machine = openMachine(t, "@me:h")
	if err := s.pin("!r:h", roomFacts{Encrypted: true, Algorithm: megolm}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.machine.ShareRoomKey("!r:h", e2ee.Sharing{Members: []id.UserID{"@me:h"}}); err != nil {
		t.Fatal(err)
	}
	const (
		replace  = `"m.relates_to":{"rel_type":"m.replace","event_id":"$a"}`
		edit     = `{"msgtype":"m.text","body":"* new","m.new_content":{"msgtype":"m.text","body":"new"},` + replace + `}`
		reaction = `{"m.relates_to":{"rel_type":"m.annotation","event_id":"$a","key":"ok\u001b"}}`
		reply    = `"m.relates_to":{"m.in_reply_to":{"event_id":"$a"}}`
		another  = `{"m.relates_to":{"m.in_reply_to":{"event_id":"$b"}}}`
		answer   = `{"msgtype":"m.text","body":"yes",` + reply + `}`
		repeats  = `{"msgtype":"m.text","body":"> <@bob:h> one\n> two\n\nyes",` + reply + `}`
	)
	for i, c := range []struct {
		sealed              bool
		kind, content, cut  string // cut is taken out of what is encrypted
		instead             string // and put beside it
		want                e2ee.Level
		wantKind, wantShown string
	}{
		{true, "m.room.message", edit, "", "", e2ee.Green, "edit", "(edits $a)  new"},
		{true, "m.room.message", edit, "," + replace, `{` + replace + `}`, e2ee.Yellow, "edit", "(edits $a)  new"},
		{true, "m.room.message", edit, "", `{"m.relates_to":{"rel_type":"m.replace","event_id":"$b"}}`, e2ee.Red, "edit", "new"},
		{true, "m.room.message", `{"msgtype":"m.text","body":"* new",` + replace + `}`, "", "", e2ee.Green, "other", ""},
		{true, "m.room.message", `{"msgtype":"m.text","body":"* new","m.new_content":` + edit + `,` + replace + `}`, "", "", e2ee.Green, "edit", "(edits $a)  * new"},
		{true, "m.room.message", `{"msgtype":"m.text","body":"x","m.new_content":{"msgtype":"m.file","body":"x","url":"mxc://h/x"},` + replace + `}`, "", "", e2ee.Red, "edit", "(edits $a)"},
		{false, "m.room.message", edit, "", "", e2ee.Red, "edit", "(edits $a)  new"},
		{false, "m.reaction", reaction, "", "", e2ee.Red, "reaction", "(reacts to $a with ok)"},
		{true, "m.reaction", reaction, "", "", e2ee.Green, "reaction", "(reacts to $a with ok)"},
		{true, "m.room.message", answer, "", "", e2ee.Green, "message", "(answers $a)  yes"},
		{true, "m.room.message", answer, "," + reply, `{` + reply + `}`, e2ee.Green, "message", "(answers $a, as the servers say)  yes"},
		{true, "m.room.message", answer, "", another, e2ee.Red, "message", "yes"},
		{false, "m.room.message", answer, "", "", e2ee.Red, "message", "(answers $a)  yes"},
		{true, "m.room.message", `{"msgtype":"m.emote","body":"nods",` + reply + `}`, "", "", e2ee.Green, "message", "(answers $a)  * nods"},
		{true, "m.room.message", `{"msgtype":"m.file","body":"x","file":{"url":"mxc://h/x","v":"v2"},` + reply + `}`, "", "", e2ee.Green, "file", `(answers $a)  file "x"`},
		{true, "m.room.message", `{"msgtype":"m.file","body":"x","file":{"url":"mxc://h/x","v":"v2"},` + reply + `}`, "", another, e2ee.Red, "file", `file "x"`},
		{true, "m.room.message", `{"msgtype":"m.text","body":"x","m.relates_to":{"rel_type":"m.thread","event_id":"$a"}}`, "", another, e2ee.Red, "message", "x"},
		{true, "m.room.message", `{"msgtype":"m.text","body":"x","m.relates_to":{"m.in_reply_to":{"event_id":"$a"},"is_falling_back":true}}`, "", "", e2ee.Green, "message", "]  x"},
		{true, "m.room.message", repeats, "", "", e2ee.Green, "message", "(answers $a)  yes"},
		{false, "m.room.message", repeats, "", "", e2ee.Red, "message", "(answers $a)  yes"},
		{true, "m.room.message", repeats, "," + reply, `{` + reply + `}`, e2ee.Green, "message", "as the servers say)  > <@bob:h> one"},
		{true, "m.room.message", `{"msgtype":"m.text","body":"> <@bob:h> one\n> two\n\nyes"}`, "", "", e2ee.Green, "message", "]  > <@bob:h> one"},
		{true, "m.room.message", `{"msgtype":"m.text","body":"> mine\nyes",` + reply + `}`, "", "", e2ee.Green, "message", "(answers $a)  > mine"},
		{true, "m.room.message", `{"msgtype":"m.text","body":"> <@bob:h> only",` + reply + `}`, "", "", e2ee.Green, "message", "(answers $a)  > <@bob:h> only"},
	} {
		kind, content := c.kind, c.content
		if c.sealed {
			sealed, err := s.machine.EncryptRoomEvent("!r:h", kind, json.RawMessage(strings.Replace(content, c.cut, "", 1)))
			if err != nil {
				t.Fatal(err)
			}
			var fields map[string]json.RawMessage
			if err := json.Unmarshal(sealed, &fields); err != nil {
				t.Fatal(err)
			}
			if c.instead != "" {
				if err := json.Unmarshal([]byte(c.instead), &fields); err != nil {
					t.Fatal(err)
				}
			}
			joined, err := json.Marshal(fields)
			if err != nil {
				t.Fatal(err)
			}
			kind, content = "m.room.encrypted", string(joined)
		}
		raw := fmt.Sprintf(`[{"event_id":"$e%d","sender":"@me:h","origin_server_ts":1,"type":%q,"content":%s}]`, i, kind, content)
		var events client.Events
		if err := json.Unmarshal([]byte(raw), &events); err != nil || len(events) != 1 {
			t.Fatalf("%s: %v", raw, err)
		}
		m, ok := s.decode("!r:h", events[0])
		if shown := string(s.app.line(m, nil)); !ok || m.Kind != c.wantKind || m.Trust != c.want || !strings.Contains(shown, c.wantShown) {
			t.Errorf("%d: %s is %s, %s (%s): %s", i, content, m.Kind, m.Trust, m.Reason, shown)
		}
	}
}
