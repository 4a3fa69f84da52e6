package clientapi

import (
	"net"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
)

// Observe is told of every answered request: by route, never by path, since paths hold names.
type Observe func(method, route string, status int, took time.Duration)

// Handler is the API as a handler of its own. Call it once.
func (a *API) Handler() http.Handler {
	e := echo.New()
	e.IPExtractor = a.addressOf()
	a.Register(e)
	return e
}

// addressOf finds the address of a client: the connection's, or what a trusted proxy says of it.
func (a *API) addressOf() echo.IPExtractor {
	if len(a.TrustedProxies) == 0 {
		return echo.ExtractIPDirect()
	}
	options := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
	for _, p := range a.TrustedProxies {
		options = append(options, echo.TrustIPRange(&net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}))
	}
	return echo.ExtractIPFromXFFHeader(options...)
}
