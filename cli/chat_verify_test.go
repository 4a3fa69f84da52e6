package cli_test

import (
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/securecomm/securecomm/cli"
	"github.com/securecomm/securecomm/homeserver/hstest"
)

// heard is an output that is waited on.
type heard struct {
	mu   sync.Mutex
	more *sync.Cond
	said strings.Builder
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.more.Broadcast()
	return h.said.Write(p)
}

func (h *heard) await(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for !strings.Contains(h.said.String(), what) {
		h.more.Wait()
	}
}

// TestVerifyInAChat answers a request within a chat.
func TestVerifyInAChat(t *testing.T) {
	s := hstest.New(t)
	env := []string{"SECURECOMM_HOME=" + t.TempDir()}
	run := func(in io.Reader, out io.Writer, args ...string) {
		if code := cli.Run(t.Context(), args, cli.Stdio{In: in, Out: out, Err: out, Env: env}); code != 0 {
			t.Errorf("%v ended with %d", args, code)
		}
	}
	for _, name := range []string{"alice", "bob"} {
		run(strings.NewReader("an-honest-password\n"), io.Discard, "register", name, "--server", s.URL, "--password-stdin", "--profile", name)
	}
	var made strings.Builder
	run(strings.NewReader(""), &made, "create", "Plans", "--invite", "@bob:"+string(s.Name), "--profile", "alice")
	room := strings.TrimSpace(made.String())
	run(strings.NewReader(""), io.Discard, "join", room, "--profile", "bob")

	chat := &heard{}
	chat.more = sync.NewCond(&chat.mu)
	in, typed := io.Pipe()
	var both sync.WaitGroup
	both.Go(func() { run(in, chat, "chat", room, "--profile", "bob") })
	chat.await("is encrypted. Write a line")
	both.Go(func() {
		run(strings.NewReader("yes\n"), io.Discard, "keys", "verify", "@bob:"+string(s.Name), "--live", "--profile", "alice")
	})
	for _, step := range []struct{ shown, line string }{
		{"asks you to compare keys: /verify begins", "/verify"}, {"Type yes to confirm", "yes"}, {"Verified @alice:", "/quit"},
	} {
		chat.await(step.shown)
		if _, err := io.WriteString(typed, step.line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	both.Wait()
}
