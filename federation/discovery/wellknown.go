package discovery

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	wellKnownTimeout = 20 * time.Second
	// maxWellKnownSize is the largest .well-known answer that is read, in bytes.
	maxWellKnownSize = 50 << 10
	// maxRedirects is how many redirects of a .well-known request are followed.
	maxRedirects = 5
)

// wellKnown is step 3: it asks a host to whom it delegates federation, and how long that holds.
func (r *Resolver) wellKnown(ctx context.Context, name id.ServerName) (id.ServerName, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, wellKnownTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+name.Host()+"/.well-known/matrix/server", nil)
	if err != nil {
		return "", 0, fmt.Errorf("asking %s for its delegation: %w", name, err)
	}
	if r.UserAgent != "" {
		request.Header.Set("User-Agent", r.UserAgent)
	}
	client := r.wellKnownClient()
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		return "", 0, fmt.Errorf("asking %s for its delegation: %w", name, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return "", 0, fmt.Errorf("asking %s for its delegation: status %d", name, response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxWellKnownSize+1))
	if err != nil {
		return "", 0, fmt.Errorf("reading the delegation of %s: %w", name, err)
	}
	delegated, err := parseWellKnown(body)
	if err != nil {
		return "", 0, fmt.Errorf("reading the delegation of %s: %w", name, err)
	}
	return delegated, wellKnownLifetime(response.Header, time.Now()), nil
}

// wellKnownClient keeps no connections: one answer lasts for hours.
func (r *Resolver) wellKnownClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if host, port, err := net.SplitHostPort(address); err == nil && port == strconv.Itoa(wellKnownPort) && r.WellKnownPort != 0 {
					address = net.JoinHostPort(host, strconv.Itoa(int(r.WellKnownPort)))
				}
				return r.Guard.DialContext(ctx, network, address)
			},
			TLSClientConfig:        &tls.Config{RootCAs: r.RootCAs, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    connectTimeout,
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxWellKnownSize,
		},
		CheckRedirect: func(next *http.Request, before []*http.Request) error {
			if len(before) > maxRedirects {
				return fmt.Errorf("more than %d redirects", maxRedirects)
			}
			if next.URL.Scheme != "https" {
				return errors.New("redirected away from HTTPS")
			}
			return nil
		},
	}
}

func parseWellKnown(body []byte) (id.ServerName, error) {
	if len(body) > maxWellKnownSize {
		return "", fmt.Errorf("more than %d bytes", maxWellKnownSize)
	}
	var delegation map[string]json.RawMessage
	if err := json.Unmarshal(body, &delegation); err != nil {
		return "", fmt.Errorf("not a JSON object: %w", err)
	}
	var server string
	if err := json.Unmarshal(delegation["m.server"], &server); err != nil {
		return "", fmt.Errorf("m.server is not a string: %w", err)
	}
	return id.ParseServerName(server)
}

// wellKnownLifetime is how long a good answer holds: by Cache-Control, else by Expires, else a day, and
// always within bounds, so that nobody makes us ask for every request or stay with a mistake for ever.
func wellKnownLifetime(h http.Header, now time.Time) time.Duration {
	lifetime := defaultWellKnownLifetime
	if expires := h.Get("Expires"); expires != "" {
		at, err := http.ParseTime(expires)
		if err != nil { // RFC 9111, section 5.3: anything else, such as 0, is in the past
			at = now
		}
		lifetime = at.Sub(now)
	}
	for _, directive := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		switch name {
		case "no-store", "no-cache":
			return minWellKnownLifetime
		case "max-age":
			if seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
				lifetime = time.Duration(seconds) * time.Second
			}
		}
	}
	return max(minWellKnownLifetime, min(lifetime, maxWellKnownLifetime))
}
