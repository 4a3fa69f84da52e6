package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// maxWellKnown bounds the discovery document, in bytes.
const maxWellKnown = 50 << 10

// ErrNoServer is wrapped when no Matrix server was found for a name.
var ErrNoServer = errors.New("no Matrix server was found")

// NewHTTP makes the carrier of calls. caFile, if not empty, names a PEM file of certificate authorities to
// trust besides the system's.
func NewHTTP(caFile string) (*http.Client, error) {
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       90 * time.Second,
		ForceAttemptHTTP2:     true,
		ExpectContinueTimeout: time.Second,
	}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("reading the certificate authorities: %w", err)
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", caFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: transport}, nil
}

// Discover finds the base URL for a server's name by its .well-known document, or the name itself where it
// has none, and makes sure that a Matrix server answers there (Client-Server API, "Server Discovery").
func Discover(ctx context.Context, carrier *http.Client, name id.ServerName) (string, error) {
	base, err := wellKnown(ctx, carrier, name)
	if err != nil {
		return "", err
	}
	if base == "" {
		base = "https://" + string(name)
	}
	if _, err := (&Client{Base: base, HTTP: carrier}).Versions(ctx); err != nil {
		return "", fmt.Errorf("%w at %s: %w", ErrNoServer, base, err)
	}
	return base, nil
}

// wellKnown answers the base URL that a server's document names, or "" if it has no document.
func wellKnown(ctx context.Context, carrier *http.Client, name id.ServerName) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+name.Host()+"/.well-known/matrix/client", nil)
	if err != nil {
		return "", fmt.Errorf("discovering %s: %w", name, err)
	}
	answer, err := carrier.Do(req)
	if err != nil {
		// Where nothing listens there is no document; whether a server stands at the name itself, with
		// its port, is found out by asking it.
		return "", nil
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusNotFound {
		return "", nil
	}
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%w: the discovery document of %s was answered with status %d", ErrNoServer, name, answer.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxWellKnown+1))
	if err != nil {
		return "", fmt.Errorf("discovering %s: %w", name, err)
	}
	var document struct {
		Homeserver struct {
			BaseURL string `json:"base_url"`
		} `json:"m.homeserver"`
	}
	if len(body) > maxWellKnown || json.Unmarshal(body, &document) != nil {
		return "", fmt.Errorf("%w: the discovery document of %s is malformed", ErrNoServer, name)
	}
	return CheckBase(document.Homeserver.BaseURL)
}

// CheckBase checks a base URL and drops its trailing slash. Plain HTTP is allowed to this machine only,
// since passwords and tokens travel on it.
func CheckBase(base string) (string, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("%w: %q is not a server's URL", ErrNoServer, base)
	}
	switch {
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		return strings.TrimSuffix(base, "/"), nil
	case u.Scheme == "http":
		return "", fmt.Errorf("%w: plain HTTP to %s would expose the password", ErrNoServer, u.Host)
	}
	return "", fmt.Errorf("%w: %q has no scheme that is known here", ErrNoServer, base)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
