package homeserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/securecomm/securecomm/config"
)

// listener is one address that is served.
type listener struct {
	name string
	net.Listener
	server *http.Server
}

// Limits on connections. Answers may take as long as a long poll, and then as long as they are read (reader); requests
// may not. Uploads may take longer than bodyTimeout as long as they keep coming.
const (
	headerTimeout = 20 * time.Second
	bodyTimeout   = time.Minute
	idleTimeout   = 5 * time.Minute
	maxHeader     = 64 << 10
	maxStreams    = 100 // requests at a time on one connection of HTTP/2
)

// Run serves all listeners until the context ends, then lets requests in flight finish. ready, which may be nil, is
// called once all addresses are open.
func (s *Server) Run(ctx context.Context, ready func(addresses map[string]net.Addr)) error {
	listeners, err := s.listen(ctx)
	if err != nil {
		return err
	}
	s.running.Go(func() { s.certificates.Load().watch(s.background) })
	failed := make(chan error, len(listeners))
	var serving sync.WaitGroup
	addresses := map[string]net.Addr{}
	for _, l := range listeners {
		addresses[l.name] = l.Addr()
		serving.Go(func() {
			if err := l.server.Serve(l.Listener); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve %s: %w", l.name, err)
			}
		})
		s.Log.Info("listening", "for", l.name, "address", l.Addr().String())
	}
	if ready != nil {
		ready(addresses)
	}
	select {
	case <-ctx.Done():
		s.Log.Info("stopping", "drain_timeout", s.Config.Server.DrainTimeout)
	case err = <-failed:
	case <-s.Store.Disowned():
		err = fmt.Errorf("the database: %w, or has used it meanwhile", ErrInUse)
	}
	s.finish(listeners)
	serving.Wait()
	return err
}

// finish ends long polls, lets other requests finish, and cuts off what takes too long.
func (s *Server) finish(listeners []listener) {
	ctx, cancel := context.WithTimeout(context.Background(), s.Config.Server.DrainTimeout)
	defer cancel()
	s.drain()
	var wg sync.WaitGroup
	for _, l := range listeners {
		wg.Go(func() {
			if err := l.server.Shutdown(ctx); err != nil {
				s.Log.Warn("requests are cut off", "listener", l.name, "err", err)
				l.server.Close()
			}
		})
	}
	wg.Wait()
}

func (s *Server) listen(ctx context.Context) ([]listener, error) {
	c := s.Config
	certificates, err := s.loadCertificates()
	if err != nil {
		return nil, err
	}
	wanted := []struct {
		name, address string
		handler       http.Handler
		tls           bool
	}{
		{"client", c.Listen.Client, s.Client, c.TLS.Mode != config.TLSOff && c.TLS.Client},
		{"federation", c.Listen.Federation, s.Federation, c.TLS.Mode != config.TLSOff},
		{"metrics", c.Listen.Metrics, s.onlyMetrics(), false},
		{"acme", c.Listen.ACME, nil, false},
	}
	var out []listener
	for _, w := range wanted {
		if w.name == "acme" {
			if c.TLS.Mode != config.TLSACME {
				continue
			}
			w.handler = certificates.challenges
		}
		if w.address == "" || w.name == "federation" && !c.Federation.Enabled {
			continue
		}
		var listen net.ListenConfig
		l, err := listen.Listen(ctx, "tcp", w.address)
		if err != nil {
			for _, open := range out {
				open.Close()
			}
			return nil, fmt.Errorf("listen for %s at %s: %w", w.name, w.address, err)
		}
		l = readers{l}
		if w.tls {
			l = tls.NewListener(l, certificates.config())
		}
		out = append(out, listener{w.name, l, s.newHTTP(w.name, w.handler)})
	}
	return out, nil
}

// newHTTP makes the HTTP server of a listener. What it complains of, such as a failed TLS handshake, is mostly the
// doing of strangers.
func (s *Server) newHTTP(listener string, handler http.Handler) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: idleTimeout, PingTimeout: headerTimeout},
		ErrorLog: slog.NewLogLogger(s.Log.With("listener", listener).Handler(), slog.LevelInfo),
	}
}
