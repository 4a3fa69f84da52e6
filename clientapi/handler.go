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
	if a.Observe != nil {
		e.Use(a.observe)
	}
	a.Register(e)
	return e
}

func (a *API) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		began := time.Now()
		if err := next(c); err != nil {
			c.Error(err)
		}
		a.Observe(c.Request().Method, c.Path(), c.Response().Status, time.Since(began))
		return nil
	}
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
