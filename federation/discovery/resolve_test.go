package discovery_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/securecomm/securecomm/federation/discovery"
	"github.com/securecomm/securecomm/federation/discovery/discoverytest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// web answers .well-known requests for all hosts of a test, by the handler of the host.
type web struct {
	handlers map[string]http.HandlerFunc

	mu    sync.Mutex
	asked map[string]int
}

func (w *web) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.asked[r.Host]++
	w.mu.Unlock()
	if h := w.handlers[r.Host]; h != nil {
		h(out, r)
		return
	}
	http.NotFound(out, r)
}

func (w *web) times(host string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[host]
}

// resolver lives in a world of its own, in which all hosts are on loopback.
func resolver(t *testing.T, dns *discoverytest.DNS, handlers map[string]http.HandlerFunc) (*discovery.Resolver, *web) {
	t.Helper()
	w := &web{handlers: handlers, asked: map[string]int{}}
	if dns.Hosts == nil {
		dns.Hosts = map[string][]netip.Addr{}
	}
	names := []string{"unused.test"}
	for host := range handlers {
		dns.Hosts[host+"."] = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
		if host != "other-certificate.test" {
			names = append(names, host)
		}
	}
	dns.Start(t)
	ca := discoverytest.NewCA(t)
	server := httptest.NewUnstartedServer(w)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Certificate(names...)}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	guard := &discovery.Guard{Resolver: dns.Resolver(), Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	port := netip.MustParseAddrPort(server.Listener.Addr().String()).Port()
	return &discovery.Resolver{Guard: guard, RootCAs: ca.Pool(), WellKnownPort: port}, w
}

func says(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
}

func delegates(to string) http.HandlerFunc { return says(fmt.Sprintf(`{"m.server":%q}`, to)) }

func redirects(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

func target(host, tlsName string, addresses ...string) discovery.Target {
	return discovery.Target{Addresses: addresses, Host: host, TLSName: tlsName}
}

// The steps are those of the Server-Server API, "Resolving server names".
func TestResolveSteps(t *testing.T) {
	dns := &discoverytest.DNS{Services: map[string][]discoverytest.SRV{
		"_matrix-fed._tcp.delegated-srv.test.": {srv(1, "b.test.", 2), srv(0, "a.test.", 1)},
		"_matrix._tcp.delegated-srv.test.":     {srv(0, "wrong.test.", 9)},
		"_matrix._tcp.delegated-old.test.":     {srv(0, "old.test.", 3)},
		"_matrix-fed._tcp.srv.test.":           {srv(0, "c.test.", 4)},
		"_matrix._tcp.old-srv.test.":           {srv(0, "d.test.", 5)},
		"_matrix-fed._tcp.by-srv.test.":        {srv(0, "wrong.test.", 9)},
	}}
	endless := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"m.server":"elsewhere.test:1","pad":"`+strings.Repeat("a", 50<<10)+`"}`)
	}
	longest := func(w http.ResponseWriter, _ *http.Request) {
		body := `{"m.server":"elsewhere.test:1","pad":"`
		_, _ = io.WriteString(w, body+strings.Repeat("a", 50<<10-len(body)-len(`"}`))+`"}`)
	}
	r, _ := resolver(t, dns, map[string]http.HandlerFunc{
		"wk-ip.test": delegates("1.2.3.4"), "wk-ip-port.test": delegates("1.2.3.4:5"), "wk-ip6.test": delegates("[2a00::1]"),
		"wk-port.test":           delegates("elsewhere.test:443"),
		"by-srv.test":            delegates("delegated-srv.test"),
		"by-old-srv.test":        delegates("delegated-old.test"),
		"plain.test":             delegates("elsewhere.test"),
		"srv.test":               http.NotFound,
		"not-json.test":          says("<html>"),
		"array.test":             says(`["m.server"]`),
		"missing.test":           says(`{"M.Server":"elsewhere.test:1"}`),
		"null.test":              says(`{"m.server":null}`),
		"number.test":            says(`{"m.server":1}`),
		"invalid-name.test":      delegates("else where"),
		"endless.test":           endless,
		"longest.test":           longest,
		"redirect.test":          redirects("https://plain-port.test/elsewhere"),
		"plain-port.test":        delegates("elsewhere.test:7"),
		"loop.test":              redirects("https://loop.test/.well-known/matrix/server"),
		"insecure.test":          redirects("http://plain-port.test/"),
		"inward.test":            redirects("https://10.0.0.1/"),
		"other-certificate.test": delegates("elsewhere.test:1"),
	})
	for _, c := range []struct {
		step, name string
		want       discovery.Target
	}{
		{"1", "1.2.3.4", target("1.2.3.4", "1.2.3.4", "1.2.3.4:8448")},
		{"1 with port", "1.2.3.4:5", target("1.2.3.4:5", "1.2.3.4", "1.2.3.4:5")},
		{"1 for IPv6", "[2a00::1]", target("[2a00::1]", "2a00::1", "[2a00::1]:8448")},
		{"1 for IPv6 with port", "[2a00::1]:5", target("[2a00::1]:5", "2a00::1", "[2a00::1]:5")},
		{"2", "plain.test:5", target("plain.test:5", "plain.test", "plain.test:5")},
		{"3.1", "wk-ip.test", target("1.2.3.4", "1.2.3.4", "1.2.3.4:8448")},
		{"3.1 with port", "wk-ip-port.test", target("1.2.3.4:5", "1.2.3.4", "1.2.3.4:5")},
		{"3.1 for IPv6", "wk-ip6.test", target("[2a00::1]", "2a00::1", "[2a00::1]:8448")},
		{"3.2", "wk-port.test", target("elsewhere.test:443", "elsewhere.test", "elsewhere.test:443")},
		{"3.2 behind a redirect", "redirect.test", target("elsewhere.test:7", "elsewhere.test", "elsewhere.test:7")},
		{"3.2 at the size limit", "longest.test", target("elsewhere.test:1", "elsewhere.test", "elsewhere.test:1")},
		{"3.3", "by-srv.test", target("delegated-srv.test", "delegated-srv.test", "a.test:1", "b.test:2")},
		{"3.4", "by-old-srv.test", target("delegated-old.test", "delegated-old.test", "old.test:3")},
		{"3.5", "plain.test", target("elsewhere.test", "elsewhere.test", "elsewhere.test:8448")},
		{"4", "srv.test", target("srv.test", "srv.test", "c.test:4")},
		{"5", "old-srv.test", target("old-srv.test", "old-srv.test", "d.test:5")},
		{"6", "unknown.test", target("unknown.test", "unknown.test", "unknown.test:8448")},
	} {
		t.Run(c.step, func(t *testing.T) {
			got, err := r.Resolve(t.Context(), id.ServerName(c.name))
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s: got %+v, %v, want %+v", c.name, got, err, c.want)
			}
		})
	}
	for _, name := range []string{
		"not-json.test", "array.test", "missing.test", "null.test", "number.test", "invalid-name.test", "endless.test",
		"loop.test", "insecure.test", "inward.test", "other-certificate.test",
	} {
		t.Run("6 because of "+name, func(t *testing.T) {
			got, err := r.Resolve(t.Context(), id.ServerName(name))
			if want := target(name, name, name+":8448"); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		})
	}
}

func TestResolveRefusals(t *testing.T) {
	dns := &discoverytest.DNS{Services: map[string][]discoverytest.SRV{"_matrix-fed._tcp.closed.test.": {srv(0, ".", 0)}}}
	r, _ := resolver(t, dns, nil)
	if got, err := r.Resolve(t.Context(), "closed.test"); err == nil {
		t.Errorf("a host that offers no federation resolved to %+v", got)
	}
	for _, name := range []id.ServerName{"", "a b", "a/b", "user@host", "host:0"} {
		if _, err := r.Resolve(t.Context(), name); !errors.Is(err, id.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestResolveRemembers(t *testing.T) {
	dns := &discoverytest.DNS{}
	r, w := resolver(t, dns, map[string]http.HandlerFunc{
		"good.test": delegates("elsewhere.test:1"),
		"bad.test":  http.NotFound,
	})
	for range 3 {
		for _, name := range []id.ServerName{"good.test", "bad.test"} {
			if _, err := r.Resolve(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, host := range []string{"good.test", "bad.test"} {
		if n := w.times(host); n != 1 {
			t.Errorf("%s was asked %d times", host, n)
		}
	}
}

// Many who ask at once cause one request, and one who gives up takes it away from nobody.
func TestResolveShares(t *testing.T) {
	entered, release := make(chan struct{}, 10), make(chan struct{})
	r, w := resolver(t, &discoverytest.DNS{}, map[string]http.HandlerFunc{"slow.test": func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-release
		delegates("elsewhere.test:1")(w, r)
	}})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := r.Resolve(ctx, "slow.test")
		first <- err
	}()
	<-entered
	cancel()
	if err := <-first; err == nil {
		t.Error("the one who gave up got an answer")
	}
	results := make(chan discovery.Target, 5)
	for range cap(results) {
		go func() {
			got, _ := r.Resolve(t.Context(), "slow.test")
			results <- got
		}()
	}
	close(release)
	for range cap(results) {
		if got := <-results; got.Host != "elsewhere.test:1" {
			t.Errorf("got %+v", got)
		}
	}
	if n := w.times("slow.test"); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func srv(priority uint16, target string, port uint16) discoverytest.SRV {
	return discoverytest.SRV{Priority: priority, Target: target, Port: port}
}
