package homeserver

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
)

// journal is a log that a test reads.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// take is what was logged since the last call.
func (j *journal) take() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer j.text.Reset()
	return j.text.String()
}

func open(t *testing.T) (*Server, *journal) {
	t.Helper()
	c := config.Dev()
	c.Server.Name, c.Server.DataDir = "one.test", filepath.Join(t.TempDir(), "data")
	log := &journal{}
	s, err := New(context.Background(), c, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, log
}

// connection is an answer that remembers until when its request may be read.
type connection struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (c *connection) SetReadDeadline(t time.Time) error {
	c.deadline = t
	return nil
}

// arrival is a body that notes whether there was a deadline when it was read.
type arrival struct {
	io.Reader
	on      *connection
	bounded bool
}

func (a *arrival) Read(p []byte) (int, error) {
	a.bounded = !a.on.deadline.IsZero()
	return a.Reader.Read(p)
}

func TestBodiesHaveATimeToArriveIn(t *testing.T) {
	s, _ := open(t)
	// The key of another server is at hand, and says only with the body whether it has signed it.
	key, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	known := store.ServerKey{Server: "127.0.0.1:1", KeyID: key.ID, Public: key.Public(), ValidUntil: time.Now().Add(time.Hour).UnixMilli(), Fetched: time.Now().UnixMilli()}
	if err := s.Store.Update(t.Context(), func(tx *store.Tx) error { return tx.ServerKeys.Put(known) }); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, method, path, body string
		length                   int64
		federation               bool
		read, bounded            bool // is the body read; is what comes after still bounded
	}{
		{"nothing", "GET", "/_matrix/client/versions", "", 0, false, false, false},
		{"whole", "POST", "/_matrix/client/v3/login", `{}`, 2, false, true, false},
		{"of unknown length", "POST", "/_matrix/client/v3/login", `{}`, -1, false, true, false},
		{"cut short", "POST", "/_matrix/client/v3/login", `{}`, 100, false, true, true},
		{"refused before it is read", "POST", "/_matrix/client/v3/createRoom", `{}`, 2, false, false, true},
		{"of a stranger to the federation", "PUT", "/_matrix/federation/v1/send/x", `{}`, 2, true, false, true},
		{"of another server", "PUT", "/_matrix/federation/v1/send/x", `{}`, 2, true, true, false},
		{"of another server, cut short", "PUT", "/_matrix/federation/v1/send/x", `{}`, 100, true, true, true},
	} {
		w := &connection{ResponseRecorder: httptest.NewRecorder()}
		body := &arrival{Reader: strings.NewReader(test.body), on: w}
		if test.length == 100 {
			body.Reader = io.MultiReader(body.Reader, brokenOff{})
		}
		r := httptest.NewRequest(test.method, test.path, body)
		r.ContentLength = test.length
		handler := s.Client
		if test.federation {
			handler = s.Federation
		}
		if test.federation && test.read {
			r.Header.Set("Authorization", `X-Matrix origin="127.0.0.1:1",key="`+string(key.ID)+`",sig="`+strings.Repeat("A", 86)+`"`)
		}
		handler.ServeHTTP(w, r)
		if body.bounded != test.read || w.deadline.IsZero() == test.bounded {
			t.Errorf("a body %s (answered with %d): read under a limit: %v, limited behind it: %v", test.name, w.Code, body.bounded, !w.deadline.IsZero())
		}
	}
}

// brokenOff is a connection at its deadline.
type brokenOff struct{}

func (brokenOff) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestRequestsHaveNames(t *testing.T) {
	s, log := open(t)
	log.take()
	for given, kept := range map[string]bool{"": false, "abc-1.2_3": true, "two words": false, "a\"b": false, strings.Repeat("x", 64): true, strings.Repeat("x", 65): false} {
		for path, handler := range map[string]http.Handler{
			"/_matrix/client/v3/account/whoami?access_token=hush": s.Client, "/_matrix/federation/v1/event/$hush": s.Federation,
		} {
			r := httptest.NewRequest("GET", path, nil)
			r.Header.Set("X-Request-Id", given)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			name := w.Header().Get("X-Request-Id")
			if (name == given) != kept || name == "" {
				t.Errorf("%q became %q", given, name)
			}
			line := log.take()
			for _, want := range []string{"request=" + name, "method=GET", "route=/_matrix/", "status=401", "took="} {
				if !strings.Contains(line, want) {
					t.Errorf("no %s in %s", want, line)
				}
			}
			if strings.Contains(line, "hush") {
				t.Errorf("the log tells a secret: %s", line)
			}
		}
	}
}

func TestMetricsAreForTheirNetworks(t *testing.T) {
	s, _ := open(t)
	alone := s.onlyMetrics()
	for _, test := range []struct {
		handler              http.Handler
		path, from, proxyFor string
		want                 int
	}{
		{alone, "/metrics", "127.0.0.1:1", "", 200},
		{alone, "/metrics", "192.0.2.1:1", "", 404},
		{alone, "/", "127.0.0.1:1", "", 404},
		{s.Client, "/metrics", "127.0.0.1:1", "", 200},
		{s.Client, "/metrics", "[::ffff:127.0.0.1]:1", "", 200},
		{s.Client, "/metrics", "127.0.0.1:1", "192.0.2.1", 404},
		{s.Client, "/metrics", "192.0.2.1:1", "127.0.0.1", 404},
	} {
		r := httptest.NewRequest("GET", test.path, nil)
		r.RemoteAddr = test.from
		if test.proxyFor != "" {
			r.Header.Set("X-Forwarded-For", test.proxyFor)
		}
		w := httptest.NewRecorder()
		test.handler.ServeHTTP(w, r)
		if w.Code != test.want {
			t.Errorf("%s from %s for %q: %d", test.path, test.from, test.proxyFor, w.Code)
		}
	}
	s.Client.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("INVENTED", "/_matrix/client/versions", nil))
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/metrics", nil)
	r.RemoteAddr = "127.0.0.1:1"
	alone.ServeHTTP(w, r)
	text := w.Body.String()
	if strings.Contains(text, "INVENTED") || !strings.Contains(text, `method="other"`) {
		t.Error("an invented method is counted under its own name")
	}
	shown := []string{
		`securecomm_build_info{build="`, "securecomm_database_commits_total ", "securecomm_database_updates_total ", "securecomm_database_updates_waiting ",
		"securecomm_users 0\n", "securecomm_tls_certificate_end_seconds 0\n",
	}
	if s.Sender != nil {
		shown = append(shown, "securecomm_federation_queues 0\n", "securecomm_federation_failing_servers 0\n")
	}
	for _, want := range shown {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("no metric %q", want)
		}
	}
}

func TestTheDataIsPrivate(t *testing.T) {
	s, log := open(t)
	if text := log.take(); strings.Contains(text, "data folder") {
		t.Errorf("a private folder is complained of: %s", text)
	}
	files, err := filepath.Glob(filepath.Join(s.Config.Server.DataDir, "securecomm.db*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
	c := *s.Config
	c.Server.DataDir = t.TempDir()
	if err := os.Chmod(c.Server.DataDir, 0o750); err != nil {
		t.Fatal(err)
	}
	c.Database.URL = config.DatabaseURL("sqlite://" + filepath.Join(t.TempDir(), "other.db"))
	again, err := New(context.Background(), &c, s.Log)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if text := log.take(); !strings.Contains(text, "data folder") {
		t.Errorf("an open folder is not complained of: %s", text)
	}
}

func TestComplaintsOfListenersAreLogged(t *testing.T) {
	s, log := open(t)
	log.take()
	s.newHTTP("client", nil).ErrorLog.Print("a handshake failed")
	if line := log.take(); !strings.Contains(line, "a handshake failed") || !strings.Contains(line, "listener=client") {
		t.Errorf("got %q", line)
	}
}

func TestListenersCutSlowReadersOff(t *testing.T) {
	s, _ := open(t)
	s.Config.Listen.Client, s.Config.Listen.Federation, s.Config.Listen.Metrics = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	listeners, err := s.listen(context.Background())
	if err != nil || len(listeners) < 2 {
		t.Fatal(len(listeners), err)
	}
	for _, l := range listeners {
		there, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		here, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := here.(*reader); !ok {
			t.Errorf("%s accepts a %T", l.name, here)
		}
		_, _, _ = there.Close(), here.Close(), l.Close()
	}
}
