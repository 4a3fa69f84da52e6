//go:build unix

package homeserver_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

// lines is a log that is looked at while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// levels counts the lines of a level, and those among them that have a message.
func (l *lines) levels(level, message string) (all, told int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.buf.Bytes()) {
		if bytes.Contains(line, []byte(`"level":"`+level+`"`)) {
			all++
			if bytes.Contains(line, []byte(message)) {
				told++
			}
		}
	}
	return all, told
}

// fullDisk is a variable of the process that has a full disk.
const fullDisk = "HSTEST_FULL_DISK"

// TestKnownFaults has the disk be full, and the database be read-only or away.
func TestKnownFaults(t *testing.T) {
	t.Run("full disk", func(t *testing.T) {
		if os.Getenv(fullDisk) == "" {
			// The limit is of the whole process, so that what the test's own one writes would be lost as well.
			run := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^TestKnownFaults$/^full_disk$")
			run.Env = append(os.Environ(), fullDisk+"=1")
			if out, err := run.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestKnownFaults/full_disk")) {
				t.Errorf("%v\n%s", err, out)
			}
			return
		}
		signal.Ignore(syscall.SIGXFSZ)
		var old syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
		limit := func(to syscall.Rlimit) {
			if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &to); err != nil {
				t.Error(err)
			}
		}
		s := hstest.New(t)
		fault(t, s, func() { limit(syscall.Rlimit{Cur: 1, Max: old.Max}) }, func() { limit(old) }, "the database cannot be written to", "the media folder cannot be written to")
	})
	t.Run("read-only database", func(t *testing.T) {
		address := storetest.Postgres(t)
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(u.Path, "/")
		set := func(how string) {
			storetest.Postgresql(t, "ALTER DATABASE "+name+" SET default_transaction_read_only = "+how)
			storetest.TakeLock(t, address, 1)() // the setting is of new connections
		}
		s := hstest.New(t, hstest.Database(address))
		fault(t, s, func() { set("on") }, func() { set("off") }, "the database cannot be written to")
	})
	t.Run("database away", func(t *testing.T) {
		address := storetest.Postgres(t)
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		p := newProxy(t, u.Host)
		u.Host = p.Addr().String()
		s := hstest.New(t, hstest.Database(u.String()))
		fault(t, s, p.cut, p.mend, "the database cannot be read")
	})
}

// TestDamagedDatabase has a page of the database's file be spoilt: what needs it is refused, and it is told once. When it is
// mended, that is told too, and all is well.
func TestDamagedDatabase(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "test.db")
		testDamaged(t, path, func() func() { return storetest.Damage(t, path, "profiles") })
	})
	for _, code := range []string{"XX001", "XX002"} { // a table's data, an index
		t.Run("postgres "+code, func(t *testing.T) {
			address := storetest.Postgres(t)
			testDamaged(t, address, func() func() { return storetest.DamagePostgres(t, address, "profiles", code) })
		})
	}
}

func testDamaged(t *testing.T, address string, spoil func() (mend func())) {
	s := hstest.New(t, hstest.Database(address))
	alice := s.Register("alice")
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	mend := spoil()
	log := &lines{}
	s.Start()
	s.LogTo(log)
	for range 20 {
		for _, ask := range [][2]string{{"GET", "/v3/profile/" + string(alice.ID)}, {"PUT", "/v3/profile/" + string(alice.ID) + "/displayname"}} {
			if status, raw := alice.Do(ask[0], ask[1], map[string]any{"displayname": "A"}); status != http.StatusServiceUnavailable {
				t.Errorf("%s of what is damaged: %d %s", ask[0], status, raw)
			}
		}
		if status, raw := alice.Do("GET", "/v3/account/whoami", nil); status != http.StatusOK {
			t.Errorf("what is whole: %d %s", status, raw)
		}
	}
	waittest.Until(t, "unhealthy", func() bool {
		a, err := http.Get(s.URL + "/health")
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		raw, _ := io.ReadAll(a.Body)
		return a.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(raw), "damaged")
	})
	all, begun := log.levels("ERROR", "has begun")
	warnings, _ := log.levels("WARN", "")
	_, ended := log.levels("INFO", "has ended")
	if all != 1 || begun != 1 || warnings > 1 || ended != 0 { // one is of the mode of the test's folder
		t.Errorf("%d errors, %d faults begun, %d warnings, %d ended\n%s", all, begun, warnings, ended, log.buf.String())
	}
	mend()
	waittest.Until(t, "healthy again", func() bool {
		a, err := http.Get(s.URL + "/health")
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		return a.StatusCode == http.StatusOK
	})
	alice.Must("PUT", "/v3/profile/"+string(alice.ID)+"/displayname", map[string]any{"displayname": "A"}, nil)
	alice.Must("GET", "/v3/profile/"+string(alice.ID), nil, nil)
	all, begun = log.levels("ERROR", "has begun")
	if _, ended := log.levels("INFO", "has ended"); all != 1 || begun != 1 || ended != 1 {
		t.Errorf("mended: %d errors, %d faults begun, %d ended\n%s", all, begun, ended, log.buf.String())
	}
}

// fault has a server with a known fault, from when it begins until it ends, and wants it to be told with all reasons.
func fault(t *testing.T, s *hstest.Server, begin, end func(), reasons ...string) {
	t.Helper()
	log := &lines{}
	s.LogTo(log)
	alice := s.Register("alice")
	room := alice.CreateRoom(nil)
	ask := func(method, path string) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(`{"msgtype":"m.text","body":"b"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+alice.Token)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		raw, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body = io.NopCloser(bytes.NewReader(raw))
		return answer
	}
	begin()
	ended := false
	defer func() {
		if !ended {
			end()
		}
	}()
	waittest.Until(t, "unhealthy", func() bool { return ask("GET", "/health").StatusCode == http.StatusServiceUnavailable })
	for n := range 20 {
		for _, path := range []string{"/_matrix/client/v3/rooms/" + string(room) + "/send/m.room.message/t" + fmt.Sprint(n), "/_matrix/media/v3/upload", "/ready", "/health"} {
			method := map[byte]string{'_': "POST", 'r': "GET", 'h': "GET"}[path[1]]
			if strings.Contains(path, "/send/") {
				method = "PUT"
			}
			a := ask(method, path)
			if a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
				raw, _ := io.ReadAll(a.Body)
				t.Errorf("%s: %d %s, %s", path, a.StatusCode, a.Header.Get("Retry-After"), raw)
			}
		}
	}
	var health struct{ Reasons []string }
	if err := json.NewDecoder(ask("GET", "/health").Body).Decode(&health); err != nil {
		t.Error(err)
	}
	for _, reason := range reasons {
		if !slices.Contains(health.Reasons, reason) {
			t.Errorf("the reasons are %q, not %q", health.Reasons, reason)
		}
	}
	if a := ask("GET", "/live"); a.StatusCode != http.StatusOK {
		t.Errorf("/live: %d", a.StatusCode)
	}
	end()
	ended = true
	waittest.Until(t, "healthy", func() bool { return ask("GET", "/health").StatusCode == http.StatusOK })
	alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "again"})
	all, begun := log.levels("ERROR", "has begun")
	others, _ := log.levels("WARN", "")
	_, over := log.levels("INFO", "has ended")
	if begun == 0 || begun > 4 || over == 0 || all-begun > 1 || others > 1 { // one more may be of the lock on the database
		t.Errorf("%d faults have begun and %d ended; errors: %d, warnings: %d\n%s", begun, over, all, others, log.buf.String())
	}
}

// TestNearlyFullDisksAreUnhealthy: while no media is taken, /health says why, and that it was asked ends no fault.
func TestNearlyFullDisksAreUnhealthy(t *testing.T) {
	s := hstest.New(t, func(c *config.Config) { c.Media.KeepFree = 1 << 60 })
	alice, log := s.Register("alice"), &lines{}
	s.LogTo(log)
	for range 2 {
		if status, answer := alice.Do("POST", "/_matrix/media/v3/upload", "x"); status != http.StatusServiceUnavailable {
			t.Errorf("an upload: %d %s", status, answer)
		}
		for path, want := range map[string]string{"/ready": `"ok"`, "/health": "nearly full"} { // the rest goes on
			answer, err := http.Get(s.URL + path)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := io.ReadAll(answer.Body)
			if err = errors.Join(err, answer.Body.Close()); err != nil || answer.StatusCode != http.StatusOK || !bytes.Contains(raw, []byte(want)) {
				t.Errorf("%s: %s %s, %v", path, answer.Status, raw, err)
			}
		}
	}
	if all := log.buf.String(); strings.Count(all, "has begun") != 1 || strings.Contains(all, "has ended") {
		t.Errorf("the log tells of more than one fault, or that it ended:\n%s", all)
	}
}

// proxy is the way to a database, which can be cut.
type proxy struct {
	net.Listener
	to string

	mu    sync.Mutex
	isCut bool
	open  []net.Conn
}

func newProxy(t *testing.T, to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, to: to}
	t.Cleanup(func() { p.cut(); l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

func (p *proxy) serve(c net.Conn) {
	defer c.Close()
	p.mu.Lock()
	there, err := net.Dial("tcp", p.to)
	if err != nil || p.isCut {
		p.mu.Unlock()
		if err == nil {
			there.Close()
		}
		return
	}
	p.open = append(p.open, c, there)
	p.mu.Unlock()
	defer there.Close()
	go func() { _, _ = io.Copy(there, c); there.Close() }()
	_, _ = io.Copy(c, there) // until either side ends
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isCut = true
	for _, c := range p.open {
		c.Close()
	}
	p.open = nil
}

func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isCut = false
}
