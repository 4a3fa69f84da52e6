package cli_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/cli"
)

// TestRelatedInAChat has edits, reactions and answers arrive in a chat: each names what it is about as that stood then.
func TestRelatedInAChat(t *testing.T) {
	p := newPair(t)
	alice := "@alice:" + string(p.server.Name)
	first := ""
	for _, step := range []struct{ how, kind, content, shown string }{
		{"event", "m.room.message", `{"msgtype":"m.text","body":"old"}`, "  old\n"},
		{"event", "m.room.message", `{"msgtype":"m.text","body":"*","m.new_content":{"msgtype":"m.text","body":"new"},"m.relates_to":{"rel_type":"m.replace","event_id":%[1]q}}`,
			"  (edited: " + alice + ` [yellow]: "old")  new` + "\n"},
		{"plain", "m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":%[1]q,"key":"👍"}}`,
			"  [red: not encrypted, though the room is]  (reacts to " + alice + ` [yellow]: "new" with 👍)` + "\n"},
		{"event", "m.room.message", `{"msgtype":"m.text","body":"yes","m.relates_to":{"m.in_reply_to":{"event_id":%[1]q}}}`,
			"  (answers " + alice + ` [yellow]: "new")  yes` + "\n"},
		{"plain", "m.room.message", `{"msgtype":"m.text","body":"*","m.new_content":{"msgtype":"m.text","body":"forged"},"m.relates_to":{"rel_type":"m.replace","event_id":%[1]q}}`,
			"  [red: not encrypted, though the room is]  (edits %[1]s)  forged\n"},
		{"redact", "", "", ""},
		{"plain", "m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":%[1]q,"key":"❤"}}`, "  (reacts to %[1]s with ❤)\n"},
	} {
		args := []string{step.how, p.room, first, "--profile", "alice"}
		if step.how != "redact" {
			content := step.content
			if first != "" {
				content = fmt.Sprintf(content, first)
			}
			args = []string{step.how, p.room, step.kind, content, "--profile", "alice"}
		}
		var sent strings.Builder
		if code := cli.RunOther(t.Context(), args, cli.Stdio{In: strings.NewReader(""), Out: &sent, Err: t.Output(), Env: p.env}); code != 0 {
			t.Errorf("%s ended with %d", step.how, code)
		}
		if first == "" {
			first = strings.TrimSpace(sent.String())
		}
		if shown := step.shown; shown != "" {
			if strings.Contains(shown, "%") {
				shown = fmt.Sprintf(shown, first)
			}
			p.chat.await(shown)
		}
	}
	p.says("/quit")
	p.ended.Wait()
}
