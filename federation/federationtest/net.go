// Package federationtest gives tests a federation of servers on the loopback interface, which find each other
// by name and speak TLS.
//
// Its callers are tests of federation and the packages below it.
package federationtest

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/federation/discovery"
	"github.com/securecomm/securecomm/federation/discovery/discoverytest"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// Net is a small internet. All its servers listen on one port and are told apart by the name they are called by.
type Net struct {
	ca   *discoverytest.CA
	dns  *discoverytest.DNS
	port uint16

	mu       sync.Mutex
	handlers map[string]http.Handler
}

// New makes a Net with the server names given. None of them answers yet.
func New(t testing.TB, names ...string) *Net {
	t.Helper()
	n := &Net{
		ca: discoverytest.NewCA(t), dns: &discoverytest.DNS{Hosts: map[string][]netip.Addr{}},
		handlers: map[string]http.Handler{},
	}
	for _, name := range names {
		n.dns.Hosts[name+"."] = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	}
	n.dns.Start(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(n.serve))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{n.ca.Certificate(names...)}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	n.port = netip.MustParseAddrPort(server.Listener.Addr().String()).Port()
	server.StartTLS()
	t.Cleanup(server.Close)
	return n
}

// Serve has a server answer with a handler. Where there is none, its connections break.
func (n *Net) Serve(name id.ServerName, h http.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handlers[string(name)] = h; h == nil {
		delete(n.handlers, string(name))
	}
}

func (n *Net) serve(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	h := n.handlers[r.Host]
	n.mu.Unlock()
	if h == nil {
		panic(http.ErrAbortHandler)
	}
	h.ServeHTTP(w, r)
}

// Client makes a client that speaks as a server.
func (n *Net) Client(t testing.TB, name id.ServerName, key sign.Key) *client.Client {
	t.Helper()
	guard := &discovery.Guard{Resolver: n.dns.Resolver(), Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	c := &client.Client{
		Server: name, Key: key, RootCAs: n.ca.Pool(),
		Resolver: &discovery.Resolver{Guard: guard, RootCAs: n.ca.Pool(), WellKnownPort: 1, FederationPort: n.port},
	}
	t.Cleanup(c.Close)
	return c
}
