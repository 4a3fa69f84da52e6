package cli_test

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/securecomm/securecomm/cli"
	"github.com/securecomm/securecomm/homeserver/hstest"
)

// TestRelatedInAChat has edits, reactions and answers arrive in a chat: each names what it is about as that stood then.
func TestRelatedInAChat(t *testing.T) {
	s := hstest.New(t)
	env := []string{"SECURECOMM_HOME=" + t.TempDir()}
	run := func(run func() int, what string) {
		t.Helper()
		if code := run(); code != 0 {
			t.Errorf("%s ended with %d", what, code)
		}
	}
	ours := func(in io.Reader, out io.Writer, args ...string) {
		run(func() int { return cli.Run(t.Context(), args, cli.Stdio{In: in, Out: out, Err: out, Env: env}) }, args[0])
	}
	for _, name := range []string{"alice", "bob"} {
		ours(strings.NewReader("an-honest-password\n"), io.Discard, "register", name, "--server", s.URL, "--password-stdin", "--profile", name)
	}
	var made strings.Builder
	ours(strings.NewReader(""), &made, "create", "Plans", "--invite", "@bob:"+string(s.Name), "--profile", "alice")
	room := strings.TrimSpace(made.String())
	ours(strings.NewReader(""), io.Discard, "join", room, "--profile", "bob")

	chat := &heard{}
	chat.more = sync.NewCond(&chat.mu)
	in, typed := io.Pipe()
	var ended sync.WaitGroup
	ended.Go(func() { ours(in, chat, "chat", room, "--profile", "bob") })
	chat.await("is encrypted. Write a line")
	alice := "@alice:" + string(s.Name)
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
		args := []string{step.how, room, first, "--profile", "alice"}
		if step.how != "redact" {
			content := step.content
			if first != "" {
				content = fmt.Sprintf(content, first)
			}
			args = []string{step.how, room, step.kind, content, "--profile", "alice"}
		}
		var sent strings.Builder
		run(func() int {
			return cli.RunOther(t.Context(), args, cli.Stdio{In: strings.NewReader(""), Out: &sent, Err: t.Output(), Env: env})
		}, step.how)
		if first == "" {
			first = strings.TrimSpace(sent.String())
		}
		if shown := step.shown; shown != "" {
			if strings.Contains(shown, "%") {
				shown = fmt.Sprintf(shown, first)
			}
			chat.await(shown)
		}
	}
	if _, err := io.WriteString(typed, "/quit\n"); err != nil {
		t.Fatal(err)
	}
	ended.Wait()
}
