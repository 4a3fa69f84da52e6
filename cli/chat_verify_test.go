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

// pair are alice and bob in an encrypted room, where bob chats.
type pair struct {
	t      *testing.T
	server *hstest.Server
	env    []string
	room   string
	chat   *heard
	typed  io.Writer // what bob types
	ended  sync.WaitGroup
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{t: t, server: hstest.New(t), env: []string{"SECURECOMM_HOME=" + t.TempDir()}, chat: &heard{}}
	for _, name := range []string{"alice", "bob"} {
		p.run(strings.NewReader("an-honest-password\n"), io.Discard, "register", name, "--server", p.server.URL, "--password-stdin", "--profile", name)
	}
	var made strings.Builder
	p.run(strings.NewReader(""), &made, "create", "Plans", "--invite", "@bob:"+string(p.server.Name), "--profile", "alice")
	p.room = strings.TrimSpace(made.String())
	p.run(strings.NewReader(""), io.Discard, "join", p.room, "--profile", "bob")
	p.chat.more = sync.NewCond(&p.chat.mu)
	in, typed := io.Pipe()
	p.typed = typed
	p.ended.Go(func() { p.run(in, p.chat, "chat", p.room, "--profile", "bob") })
	p.chat.await("is encrypted. Write a line")
	return p
}

func (p *pair) run(in io.Reader, out io.Writer, args ...string) {
	if code := cli.Run(p.t.Context(), args, cli.Stdio{In: in, Out: out, Err: out, Env: p.env}); code != 0 {
		p.t.Errorf("%v ended with %d", args, code)
	}
}

// says has bob type a line.
func (p *pair) says(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.typed, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

// TestVerifyInAChat answers a request within a chat.
func TestVerifyInAChat(t *testing.T) {
	p := newPair(t)
	p.ended.Go(func() {
		p.run(strings.NewReader("yes\n"), io.Discard, "keys", "verify", "@bob:"+string(p.server.Name), "--live", "--profile", "alice")
	})
	for _, step := range []struct{ shown, line string }{
		{"asks you to compare keys: /verify begins", "/verify"}, {"Type yes to confirm", "yes"}, {"Verified @alice:", "/quit"},
	} {
		p.chat.await(step.shown)
		p.says(step.line)
	}
	p.ended.Wait()
}
