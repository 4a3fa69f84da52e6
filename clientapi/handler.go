package clientapi

import (
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/labstack/echo/v4"
)

// Observe is told of every answered request: by route, never by path, since paths hold names.
type Observe func(method, route string, status int, took time.Duration)

// Handler is the API as a handler of its own. Call it once.
func (a *API) Handler() http.Handler {
	e := echo.New()
	e.IPExtractor = AddressOf(a.TrustedProxies)
	a.Register(e)
	return e
}

// requestID is the header under which a request's answer names it, if whoever serves the API has given it a name.
const requestID = "X-Request-Id"

// NetworkOf finds what the requests of a stranger are counted by: the address, or the network of an IPv6 address.
func NetworkOf(trusted []netip.Prefix) func(*http.Request) string {
	address := AddressOf(trusted)
	return func(r *http.Request) string { return network(address(r)) }
}

// AddressOf finds the address of a client: the connection's, or what a trusted proxy says of it.
func AddressOf(trusted []netip.Prefix) func(*http.Request) string {
	if len(trusted) == 0 {
		return echo.ExtractIPDirect()
	}
	options := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
	for _, p := range trusted {
		options = append(options, echo.TrustIPRange(&net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}))
	}
	return echo.ExtractIPFromXFFHeader(options...)
}
