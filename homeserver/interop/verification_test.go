package interop

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// terminal is a user of the terminal client, with a home of its own.
type terminal struct {
	t       *testing.T
	program string
	home    string
	url     string
	user    *hstest.User
}

// securecomm builds the terminal client and logs a user in.
func securecomm(t *testing.T, u *hstest.User) *terminal {
	t.Helper()
	dir := t.TempDir()
	c := &terminal{t: t, program: filepath.Join(dir, "securecomm"), home: dir, url: u.Server.URL, user: u}
	if out, err := exec.Command("go", "build", "-o", c.program, "../../cli/securecomm").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	password := "wordpass-" + u.ID.Localpart() + "\n"
	c.run(password, "login", string(u.ID), "--server", c.url, "--password-stdin")
	return c
}

func (c *terminal) command(args ...string) *exec.Cmd {
	cmd := exec.Command(c.program, args...)
	cmd.Env = append(os.Environ(), "SECURECOMM_HOME="+c.home)
	return cmd
}

// run runs a command to its end, which has to be a good one.
func (c *terminal) run(input string, args ...string) string {
	c.t.Helper()
	cmd := c.command(args...)
	var said bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(input), &said
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("securecomm %s: %v: %s", strings.Join(args, " "), err, said.Bytes())
	}
	return string(out)
}

// running is a command that is talked to.
type running struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	mu    sync.Mutex
	said  bytes.Buffer
	news  chan struct{}
	ended chan error
}

func (r *running) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case r.news <- struct{}{}:
	default:
	}
	return r.said.Write(p)
}

func (c *terminal) start(args ...string) *running {
	c.t.Helper()
	r := &running{t: c.t, cmd: c.command(args...), news: make(chan struct{}, 1), ended: make(chan error, 1)}
	r.cmd.Stdout, r.cmd.Stderr = r, r
	var err error
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		r.in.Close()
		_ = r.cmd.Process.Kill()
		if c.t.Failed() {
			r.mu.Lock()
			defer r.mu.Unlock()
			c.t.Logf("the terminal said %s", r.said.String())
		}
	})
	go func() { r.ended <- r.cmd.Wait() }()
	return r
}

// patience is how long something may take on a busy machine; it ends only what would fail.
const patience = 2 * time.Minute

// says waits for something in the output.
func (r *running) says(what *regexp.Regexp) []string {
	r.t.Helper()
	late := time.After(patience)
	for {
		r.mu.Lock()
		said := r.said.String()
		r.mu.Unlock()
		if found := what.FindStringSubmatch(said); found != nil {
			return found
		}
		select {
		case <-r.news:
		case err := <-r.ended:
			r.ended <- err
			if r.mu.Lock(); what.MatchString(r.said.String()) {
				r.mu.Unlock()
				continue
			}
			r.t.Fatalf("it ended with %v and said %s", err, r.said.String())
		case <-late:
			r.t.Fatalf("it said %s", said)
		}
	}
}

func (r *running) answer(line string) {
	r.t.Helper()
	if _, err := io.WriteString(r.in, line+"\n"); err != nil {
		r.t.Fatal(err)
	}
}

// wait waits for the end and answers the exit code.
func (r *running) wait() int {
	r.t.Helper()
	err := <-r.ended
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return 0
}

var (
	pictures = regexp.MustCompile(`has to show[^\n]*\n\n +([^\n]+)\n`)
	prompted = regexp.MustCompile(`Type yes to confirm`)
)

// emoji are the names of the pictures that the terminal shows.
func (r *running) emoji() (names []string) {
	r.t.Helper()
	line := r.says(pictures)[1]
	r.says(prompted)
	for _, picture := range regexp.MustCompile(` {2,}`).Split(strings.TrimSpace(line), -1) {
		_, name, _ := strings.Cut(picture, " ")
		names = append(names, name)
	}
	return names
}

// pair is a browser and a terminal in an encrypted room of theirs.
type pair struct {
	browser  tab
	terminal *terminal
	room     id.RoomID
}

func newPair(t *testing.T, s *hstest.Server, asking, term string) pair {
	t.Helper()
	user, other := s.Register(asking), s.Register(term)
	p := pair{browser: browser(t).login(asking, user), terminal: securecomm(t, other)}
	p.browser.do("setUp", nil, nil)
	p.browser.do("create", args{"name": "Two", "invite": []id.UserID{other.ID}}, &p.room)
	p.terminal.run("", "join", string(p.room))
	p.browser.do("awaitMember", args{"room": p.room, "user": other.ID}, nil)
	return p
}

// compare has both look at the pictures.
func (p pair) compare(r *running) {
	r.t.Helper()
	var theirs []string
	p.browser.do("emoji", nil, &theirs)
	ours := r.emoji()
	if len(ours) != 7 || !slices.EqualFunc(ours, theirs, strings.EqualFold) {
		r.t.Errorf("the terminal shows %q, the browser %q", ours, theirs)
	}
}

// trust wants both to trust each other, or neither, and nothing readable of the terminal's in the room. The browser's SDK
// sends its steps unencrypted.
func (p pair) trust(t *testing.T, mutual bool) {
	t.Helper()
	var trusts bool
	p.browser.do("trusts", args{"user": p.terminal.user.ID, "expected": mutual}, &trusts)
	members := p.terminal.run("", "members", string(p.room))
	us := regexp.MustCompile(`(?m)^@` + p.browser.name + `:.*\[verified\]`).MatchString(members)
	if trusts != mutual || us != mutual {
		t.Errorf("the browser trusts: %v; the terminal: %s", trusts, members)
	}
	var page struct {
		Chunk []struct {
			Type     string    `json:"type"`
			Sender   id.UserID `json:"sender"`
			StateKey *string   `json:"state_key"`
		} `json:"chunk"`
	}
	p.terminal.user.Must("GET", "/v3/rooms/"+string(p.room)+"/messages?dir=b&limit=100", nil, &page)
	sent := 0
	for _, ev := range page.Chunk {
		if ev.Sender != p.terminal.user.ID || ev.StateKey != nil {
			continue
		}
		if sent++; ev.Type != "m.room.encrypted" {
			t.Errorf("the terminal sent %s", ev.Type)
		}
	}
	if sent < 2 {
		t.Errorf("the terminal sent %d events", sent)
	}
}

// TestEmojiInARoom is a verification between a browser and the terminal client, in their room.
func TestEmojiInARoom(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		t.Run("the browser asks", func(t *testing.T) {
			p := newPair(t, s, "alice", "bob")
			p.browser.do("verify", args{"room": p.room, "user": p.terminal.user.ID}, nil)
			if shown := p.terminal.run("", "read", string(p.room)); !strings.Contains(shown, "asks you to compare keys: securecomm keys verify @alice:") {
				t.Errorf("the terminal shows %q", shown)
			}
			r := p.terminal.start("keys", "verify", "@alice:"+string(s.Name), "--live")
			p.compare(r)
			r.answer("yes")
			p.browser.do("confirm", nil, nil)
			if code := r.wait(); code != 0 || strings.Contains(r.said.String(), "Asked ") {
				t.Errorf("the terminal ended with %d: %s", code, r.said.String())
			}
			p.trust(t, true)
		})
		t.Run("the terminal asks", func(t *testing.T) {
			p := newPair(t, s, "carol", "dan")
			r := p.terminal.start("keys", "verify", "@carol:"+string(s.Name), "--live")
			p.compare(r)
			r.answer("yes")
			p.browser.do("confirm", nil, nil)
			if code := r.wait(); code != 0 {
				t.Errorf("the terminal ended with %d: %s", code, r.said.String())
			}
			p.trust(t, true)
		})
		t.Run("it is not the same", func(t *testing.T) {
			p := newPair(t, s, "erin", "frank")
			p.browser.do("verify", args{"room": p.room, "user": p.terminal.user.ID}, nil)
			r := p.terminal.start("keys", "verify", "@erin:"+string(s.Name), "--live")
			p.compare(r)
			p.browser.do("mismatch", nil, nil)
			r.answer("yes")
			if code := r.wait(); code != 6 || !strings.Contains(r.said.String(), "the texts are not the same") {
				t.Errorf("the terminal ended with %d: %s", code, r.said.String())
			}
			p.trust(t, false)
		})
	})
}
