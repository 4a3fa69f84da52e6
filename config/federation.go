package config

import (
	"crypto/x509"
	"fmt"
	"os"
	"strings"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Allows says whether the server may speak with another: DenyServers outweighs AllowServers, and an empty
// AllowServers allows all. Ports do not count, as in server access lists of rooms.
func (f Federation) Allows(server id.ServerName) bool {
	if !f.Enabled || matchesAny(f.DenyServers, server) {
		return false
	}
	return len(f.AllowServers) == 0 || matchesAny(f.AllowServers, server)
}

func matchesAny(patterns []string, server id.ServerName) bool {
	host := strings.ToLower(server.Host())
	for _, p := range patterns {
		p = strings.ToLower(p)
		if p == "*" || p == strings.ToLower(string(server)) || p == host {
			return true
		}
		if below, ok := strings.CutPrefix(p, "*."); ok && strings.HasSuffix(host, "."+below) {
			return true
		}
	}
	return false
}

// RootCAs is the system's pool with CAFiles added, or nil, which means the system's, where there are none.
func (f Federation) RootCAs() (*x509.CertPool, error) {
	if len(f.CAFiles) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a container without certificates still has those that are configured
	}
	for _, file := range f.CAFiles {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading certificate authority: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("reading certificate authority %s: no PEM certificate in it", file)
		}
	}
	return pool, nil
}
