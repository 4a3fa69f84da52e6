package client_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/federation/discovery"
	"github.com/securecomm/securecomm/federation/discovery/discoverytest"
	"github.com/securecomm/securecomm/federation/xmatrix"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// world is one other server on loopback, which answers for one.test and two.test at the federation's port,
// and a client that finds it by name.
type world struct {
	client      *client.Client
	port        uint16
	connections atomic.Int32
}

func newWorld(t *testing.T, handler http.Handler) *world {
	t.Helper()
	w := &world{}
	loopback := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	dns := &discoverytest.DNS{
		Hosts: map[string][]netip.Addr{
			"one.test.": loopback, "two.test.": loopback, "liar.test.": loopback, "files.test.": loopback,
			"refusing.test.": {netip.MustParseAddr("127.0.0.2")},
		},
		Services: map[string][]discoverytest.SRV{},
	}
	ca := discoverytest.NewCA(t)
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Certificate("one.test", "two.test", "files.test", "127.0.0.1")}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			w.connections.Add(1)
		}
	}
	w.port = netip.MustParseAddrPort(server.Listener.Addr().String()).Port()
	dns.Services["_matrix-fed._tcp.two.test."] = []discoverytest.SRV{
		{Priority: 0, Target: "refusing.test.", Port: w.port}, {Priority: 1, Target: "one.test.", Port: w.port},
	}
	dns.Start(t)
	server.StartTLS()
	t.Cleanup(server.Close)

	key, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	guard := &discovery.Guard{Resolver: dns.Resolver(), Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	w.client = &client.Client{
		Server:    "us.test",
		Key:       key,
		Resolver:  &discovery.Resolver{Guard: guard, RootCAs: ca.Pool(), WellKnownPort: 1, FederationPort: w.port},
		RootCAs:   ca.Pool(),
		UserAgent: "test",
	}
	t.Cleanup(w.client.Close)
	return w
}

// exchange is a handler that expects one request and answers it.
type exchange struct {
	method, uri, body string // of the request; body may be in any JSON form, and is empty for none
	unsigned          bool
	status            int // 200 if zero
	header            http.Header
	answer            string
}

// serve checks the request as the other server would, and as the test expects it.
func (e exchange) serve(t *testing.T, to id.ServerName, key sign.PublicKey) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if got := r.Method + " " + r.RequestURI; got != e.method+" "+e.uri {
			t.Errorf("got %s\nwant %s %s", got, e.method, e.uri)
		}
		if r.Host != string(to) {
			t.Errorf("the host is %q", r.Host)
		}
		if !sameJSON(t, string(body), e.body) {
			t.Errorf("got %s\nwant %s", body, e.body)
		}
		if (r.Header.Get("Content-Type") == "application/json") != (e.body != "") {
			t.Errorf("the type is %q", r.Header.Get("Content-Type"))
		}
		if err := checkSignature(r, body, to, key, e.unsigned); err != nil {
			t.Error(err)
		}
		for name, values := range e.header {
			w.Header()[name] = values
		}
		if e.status != 0 {
			w.WriteHeader(e.status)
		}
		_, _ = io.WriteString(w, e.answer)
	}
}

func checkSignature(r *http.Request, body []byte, to id.ServerName, key sign.PublicKey, unsigned bool) error {
	authorization := r.Header.Get("Authorization")
	if unsigned {
		if authorization != "" {
			return fmt.Errorf("signed: %s", authorization)
		}
		return nil
	}
	h, err := xmatrix.Parse(authorization)
	if err != nil {
		return err
	}
	if h.Origin != "us.test" || h.Destination != to {
		return fmt.Errorf("from %s to %s", h.Origin, h.Destination)
	}
	if len(body) == 0 {
		body = nil
	}
	return xmatrix.Verify(h, xmatrix.Request{Method: r.Method, URI: r.RequestURI, Content: body}, to, key)
}

// delegate lets a handler be chosen after its server has started.
type delegate struct{ handler atomic.Pointer[http.Handler] }

func (d *delegate) set(h http.Handler) { d.handler.Store(&h) }

func (d *delegate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/.well-known/") {
		http.NotFound(w, r)
		return
	}
	(*d.handler.Load()).ServeHTTP(w, r)
}
