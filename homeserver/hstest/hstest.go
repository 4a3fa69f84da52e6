package hstest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/federation/discovery/discoverytest"
	"github.com/securecomm/securecomm/homeserver"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// Server is a running server.
type Server struct {
	*homeserver.Server
	Name id.ServerName
	URL  string // of the client API

	t      testing.TB
	config *config.Config
	ca     *discoverytest.CA // nil if the server does not federate
	log    *slog.Logger      // nil: discarded
	stop   func() error
}

// Option changes the configuration of a server.
type Option func(*config.Config)

// Each runs a test with a server on SQLite and with one on PostgreSQL.
func Each(t *testing.T, test func(t *testing.T, s *Server), options ...Option) {
	t.Helper()
	storetest.EachURL(t, func(t *testing.T, address string) { test(t, New(t, append(options, Database(address))...)) })
}

// EachPair runs a test with two federating servers on SQLite, and on PostgreSQL.
func EachPair(t *testing.T, test func(t *testing.T, one, two *Server), options ...Option) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { one, two := Pair(t, options...); test(t, one, two) })
	t.Run("postgres", func(t *testing.T) {
		addresses := []string{storetest.Postgres(t), storetest.Postgres(t)}
		n := 0
		one, two := Pair(t, append(options, func(c *config.Config) { Database(addresses[n])(c); n++ })...)
		test(t, one, two)
	})
}

// EachWithPeer runs a test with a server and a hostile peer of it, on SQLite and on PostgreSQL.
func EachWithPeer(t *testing.T, test func(t *testing.T, s *Server, evil *Peer), options ...Option) {
	t.Helper()
	storetest.EachURL(t, func(t *testing.T, address string) {
		s := NewFederating(t, append(slices.Clone(options), Database(address))...)
		test(t, s, NewPeer(t, s))
	})
}

// Database makes a server use the database at an address, as storetest.EachURL gives it.
func Database(address string) Option {
	return func(c *config.Config) {
		if !strings.HasPrefix(address, "postgres") {
			address = "sqlite://" + address
		}
		c.Database.URL = config.DatabaseURL(address)
	}
}

// New starts a server that federates with nobody. It is stopped at the end of the test.
func New(t testing.TB, options ...Option) *Server {
	t.Helper()
	c := config.Dev()
	c.Server.Name, c.Federation.Enabled = "one.test", false
	return start(t, c, options)
}

// Pair starts two servers that federate with each other over TLS, named by their addresses.
func Pair(t testing.TB, options ...Option) (one, two *Server) {
	t.Helper()
	ca := discoverytest.NewCA(t)
	var servers [2]*Server
	for i := range servers {
		servers[i] = federating(t, ca, options)
	}
	return servers[0], servers[1]
}

// NewFederating starts a server that federates over TLS, for the peers of NewPeer.
func NewFederating(t testing.TB, options ...Option) *Server {
	t.Helper()
	return federating(t, discoverytest.NewCA(t), options)
}

// WriteTLS writes tls.crt and tls.key for another server on 127.0.0.1 that this one trusts, and ca.crt to trust both by.
func (s *Server) WriteTLS(dir string) { s.ca.WriteFiles(dir, "127.0.0.1") }

func federating(t testing.TB, ca *discoverytest.CA, options []Option) *Server {
	t.Helper()
	// The server's name has to be known before it starts: a port is taken and given back.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	c := config.Dev()
	c.Server.Name = id.ServerName(address)
	c.Listen.Federation = address
	c.TLS.Mode = config.TLSFiles
	c.TLS.Cert, c.TLS.Key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	ca.WriteFiles(dir, "127.0.0.1")
	c.Federation.CAFiles = []string{filepath.Join(dir, "ca.crt")}
	c.Federation.AllowNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	s := start(t, c, options)
	s.ca = ca
	return s
}

func start(t testing.TB, c *config.Config, options []Option) *Server {
	t.Helper()
	c.Server.DataDir = t.TempDir()
	c.Listen.Client = "127.0.0.1:0"
	for _, o := range options {
		o(c)
	}
	s := &Server{t: t, config: c, Name: c.Server.Name}
	s.Start()
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Start starts the server again after Stop, with the same data.
func (s *Server) Start() {
	s.t.Helper()
	log := slog.New(slog.DiscardHandler)
	if s.log != nil {
		log = s.log
	}
	if os.Getenv("HSTEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("server", s.Name)
	}
	server, err := homeserver.New(context.Background(), s.config, log)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, ready := make(chan error, 1), make(chan string, 1)
	go func() {
		done <- server.Run(ctx, func(a map[string]net.Addr) { ready <- a["client"].String() })
	}()
	select {
	case address := <-ready:
		s.URL = "http://" + address
	case err := <-done:
		s.t.Fatal(err)
	}
	s.Server = server
	s.stop = func() error {
		cancel()
		err := <-done
		if closeErr := server.Close(); err == nil {
			err = closeErr
		}
		return err
	}
}

// Stop stops the server; its data stays.
func (s *Server) Stop() error {
	if s.stop == nil {
		return nil
	}
	stop := s.stop
	s.stop = nil
	return stop()
}

// At is a server that runs elsewhere, at the base URL of its client API: for its users only.
func At(t testing.TB, url string) *Server { return &Server{t: t, URL: url} }

// User is a logged-in device on a server.
type User struct {
	ID     id.UserID
	Device id.DeviceID
	Token  string
	Server *Server
}

// Register makes an account.
func (s *Server) Register(name string) *User {
	s.t.Helper()
	u := &User{Server: s}
	var out struct {
		UserID      id.UserID   `json:"user_id"`
		DeviceID    id.DeviceID `json:"device_id"`
		AccessToken string      `json:"access_token"`
	}
	u.Must("POST", "/v3/register", map[string]any{"username": name, "password": "wordpass-" + name, "auth": map[string]any{"type": "m.login.dummy"}}, &out)
	u.ID, u.Device, u.Token = out.UserID, out.DeviceID, out.AccessToken
	return u
}

// Login makes another device of an account.
func (s *Server) Login(name string) *User {
	s.t.Helper()
	u := &User{Server: s}
	var out struct {
		UserID      id.UserID   `json:"user_id"`
		DeviceID    id.DeviceID `json:"device_id"`
		AccessToken string      `json:"access_token"`
	}
	u.Must("POST", "/v3/login", map[string]any{
		"type": "m.login.password", "identifier": map[string]any{"type": "m.id.user", "user": name}, "password": "wordpass-" + name,
	}, &out)
	u.ID, u.Device, u.Token = out.UserID, out.DeviceID, out.AccessToken
	return u
}

// Do calls an endpoint; the path stands behind /_matrix/client unless it begins with "/_". It returns the status and the body.
func (u *User) Do(method, path string, body any) (int, []byte) {
	u.Server.t.Helper()
	if !strings.HasPrefix(path, "/_") {
		path = "/_matrix/client" + path
	}
	var content io.Reader
	switch b := body.(type) {
	case nil:
		if method != http.MethodGet {
			content = strings.NewReader("{}")
		}
	case []byte:
		content = bytes.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			u.Server.t.Fatal(err)
		}
		content = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(context.Background(), method, u.Server.URL+path, content)
	if err != nil {
		u.Server.t.Fatal(err)
	}
	if u.Token != "" {
		r.Header.Set("Authorization", "Bearer "+u.Token)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		u.Server.t.Fatal(err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		u.Server.t.Fatal(err)
	}
	return answer.StatusCode, raw
}

// Must is Do that fails the test unless the status is 200; the answer is decoded into into, which may be nil.
func (u *User) Must(method, path string, body, into any) {
	u.Server.t.Helper()
	status, raw := u.Do(method, path, body)
	if status != http.StatusOK {
		u.Server.t.Fatalf("%s %s: %d %s", method, path, status, raw)
	}
	if into != nil {
		if err := json.Unmarshal(raw, into); err != nil {
			u.Server.t.Fatalf("%s %s: %v in %s", method, path, err, raw)
		}
	}
}

// Refused is Do that fails the test unless the answer is an error with that status and code.
func (u *User) Refused(method, path string, body any, status int, code string) {
	u.Server.t.Helper()
	got, raw := u.Do(method, path, body)
	var e struct {
		Code string `json:"errcode"`
	}
	if err := json.Unmarshal(raw, &e); err != nil || got != status || e.Code != code {
		u.Server.t.Errorf("%s %s: %d %s, want %d %s", method, path, got, raw, status, code)
	}
}

// CreateRoom makes a room.
func (u *User) CreateRoom(body any) id.RoomID {
	u.Server.t.Helper()
	var out struct {
		RoomID id.RoomID `json:"room_id"`
	}
	u.Must("POST", "/v3/createRoom", body, &out)
	return out.RoomID
}

var sends int

// Send sends an event into a room.
func (u *User) Send(room id.RoomID, typ string, content any) id.EventID {
	u.Server.t.Helper()
	var out struct {
		EventID id.EventID `json:"event_id"`
	}
	sends++
	u.Must("PUT", fmt.Sprintf("/v3/rooms/%s/send/%s/t%d", room, typ, sends), content, &out)
	return out.EventID
}

// Await syncs from the beginning until an answer satisfies seen, and fails the test if none does within minutes.
func (u *User) Await(what string, seen func(answer []byte) bool) {
	u.Server.t.Helper()
	since := ""
	for range 120 {
		var answer json.RawMessage
		u.Must("GET", "/v3/sync?timeout=1000"+since, nil, &answer)
		if seen(answer) {
			return
		}
		var next struct {
			Batch string `json:"next_batch"`
		}
		if err := json.Unmarshal(answer, &next); err != nil {
			u.Server.t.Fatal(err)
		}
		since = "&since=" + url.QueryEscape(next.Batch)
	}
	u.Server.t.Fatalf("%s never sees %s", u.ID, what)
}

// AwaitMembership waits until the user is told of somebody's membership in a room that they are in.
func (u *User) AwaitMembership(room id.RoomID, target id.UserID, membership string) {
	u.Server.t.Helper()
	path := "/v3/rooms/" + string(room) + "/state/m.room.member/" + string(target)
	u.Await(string(target)+" as "+membership, func([]byte) bool {
		status, body := u.Do("GET", path, nil)
		var content struct {
			Membership string `json:"membership"`
		}
		return status == 200 && json.Unmarshal(body, &content) == nil && content.Membership == membership
	})
}
