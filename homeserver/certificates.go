package homeserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"github.com/securecomm/securecomm/config"
)

const (
	// lookEvery is how often the files of a certificate are looked at.
	lookEvery = 10 * time.Second
	// certificateSoon is how long before its end a certificate is warned of, once in certificateTold.
	certificateSoon = 14 * 24 * time.Hour
	certificateTold = 24 * time.Hour
	// certificateCheck is how often it is looked at though no client asks for it.
	certificateCheck = time.Minute
)

// certificates is where TLS gets its certificates from, and what is known of the one that was given last. The zero value
// has none.
type certificates struct {
	log        *slog.Logger
	load       func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	files      *certificateFiles // nil: they are not in files
	names      []string          // those that there can be certificates for, if not in files
	protocols  []string
	challenges http.Handler

	ends atomic.Int64 // of the certificate, in seconds since 1970; 0: not known
	mu   sync.Mutex
	bad  bool      // the last one could not be had
	told time.Time // when it was last told that it ends soon
}

func (c *certificates) config() *tls.Config {
	return &tls.Config{GetCertificate: c.get, NextProtos: append([]string{"h2", "http/1.1"}, c.protocols...), MinVersion: tls.VersionTLS12}
}

// get gives the certificate for a client, and tells when that begins to fail, no longer does, or soon will.
func (c *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	pair, err := c.load(hello)
	if err != nil && c.files == nil && (hello == nil || !slices.Contains(c.names, strings.ToLower(hello.ServerName))) {
		return nil, err // whoever connects can ask for any name, or none
	}
	if pair != nil && pair.Leaf != nil {
		c.ends.Store(pair.Leaf.NotAfter.Unix())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil && !c.bad:
		c.bad = true
		c.log.Error("the TLS certificate cannot be loaded", "the former one is served", pair != nil, "err", err)
	case err == nil && c.bad:
		c.bad = false
		c.log.Info("the TLS certificate can be loaded again")
	}
	if pair == nil {
		return nil, err
	}
	if pair.Leaf != nil && time.Until(pair.Leaf.NotAfter) < certificateSoon && time.Since(c.told) > certificateTold {
		c.told = time.Now()
		c.log.Error("the TLS certificate ends soon, or has ended", "names", pair.Leaf.DNSNames, "ends", pair.Leaf.NotAfter)
	}
	return pair, nil
}

// watch looks at the certificate now and then, until the context ends.
func (c *certificates) watch(ctx context.Context) {
	if c.files == nil {
		return
	}
	tick := time.NewTicker(certificateCheck)
	defer tick.Stop()
	for {
		_, _ = c.get(nil) // it tells what is wrong
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Reload looks at once whether the files of the TLS certificate have changed.
func (s *Server) Reload() {
	if c := s.certificates.Load(); c != nil && c.files != nil {
		c.files.again()
		c.mu.Lock()
		c.bad, c.told = false, time.Time{} // whoever asked wants to hear of it once more
		c.mu.Unlock()
		if pair, _ := c.get(nil); pair != nil {
			s.Log.Info("the TLS certificate was looked at again", "served until", pair.Leaf.NotAfter)
		}
	}
}

func (s *Server) loadCertificates() (*certificates, error) {
	c := s.Config
	out := &certificates{log: s.Log}
	switch c.TLS.Mode {
	case config.TLSFiles:
		out.files = &certificateFiles{cert: c.TLS.Cert, key: c.TLS.Key}
		out.load = out.files.get
		if _, err := out.load(nil); err != nil {
			return nil, err
		}
	case config.TLSACME:
		m := &autocert.Manager{
			Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(c.ACMEDir()), Email: c.TLS.ACMEEmail,
			HostPolicy: autocert.HostWhitelist(c.ACMEDomains()...), Client: &acme.Client{DirectoryURL: c.TLS.ACMEDirectory},
		}
		out.names = c.ACMEDomains()
		out.load, out.protocols, out.challenges = m.GetCertificate, []string{acme.ALPNProto}, m.HTTPHandler(nil)
	}
	s.certificates.Store(out)
	return out, nil
}

// certificateFiles reads a certificate again when one of its files has changed.
type certificateFiles struct {
	cert, key string

	mu      sync.Mutex
	looked  time.Time
	changed [2]time.Time
	current *tls.Certificate
	err     error // of the last try
}

// again has the files looked at by the next who asks.
func (f *certificateFiles) again() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looked, f.changed = time.Time{}, [2]time.Time{}
}

// get is the certificate in the files. If that can't be loaded, it is the one before, together with the error: half-written
// files are no reason to stop serving.
func (f *certificateFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current != nil && time.Since(f.looked) < lookEvery {
		return f.current, f.err
	}
	f.looked = time.Now()
	var changed [2]time.Time
	for i, name := range []string{f.cert, f.key} {
		info, err := os.Stat(name)
		if err != nil {
			f.err = fmt.Errorf("the TLS certificate: %w", err)
			return f.current, f.err
		}
		changed[i] = info.ModTime()
	}
	if f.current != nil && changed == f.changed {
		return f.current, f.err
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		f.err = fmt.Errorf("the TLS certificate: %w", err)
		return f.current, f.err
	}
	f.current, f.changed, f.err = &pair, changed, nil
	return f.current, nil
}
