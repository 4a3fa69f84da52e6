package discovery

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	wellKnownPort  = 443
	federationPort = 8448
	// resolveTimeout bounds one whole resolution, whoever waits for it.
	resolveTimeout = 40 * time.Second
	// srvTimeout bounds the look-up of SRV records. A name server that never answers for them costs
	// this much, once per srvLifetime.
	srvTimeout = 5 * time.Second
	// srvLifetime is how long an answer that came from SRV records, or from their absence, is used:
	// the resolver does not tell us the records' own lifetime.
	srvLifetime = 5 * time.Minute
	// maxSRV bounds how many records of one name are tried.
	maxSRV = 8
)

// Target is where and how to reach a server.
type Target struct {
	// Addresses are "host:port", in the order in which to try them. Hosts are names or IP addresses.
	Addresses []string
	// Host is the value of the Host header.
	Host string
	// TLSName is the name or IP address that the certificate must be valid for.
	TLSName string
}

// Resolver finds the Target of a server name by the numbered steps of the specification and remembers
// answers for as long as they may be. Its fields are set before its first use; afterwards it is safe
// for concurrent use.
type Resolver struct {
	// Guard dials the .well-known requests and provides the DNS resolver.
	Guard *Guard
	// RootCAs are trusted for .well-known requests; nil is the system's set.
	RootCAs *x509.CertPool
	// WellKnownPort and FederationPort replace 443 and 8448 where they are not zero, for networks in
	// which nothing can listen on those.
	WellKnownPort, FederationPort uint16
	// UserAgent is sent with .well-known requests.
	UserAgent string

	flights singleflight.Group
	mu      sync.Mutex
	known   map[id.ServerName]answer
}

// Resolve finds out how to reach a server. The error of an unreachable .well-known is no error here:
// the specification has further steps.
func (r *Resolver) Resolve(ctx context.Context, name id.ServerName) (Target, error) {
	if _, err := id.ParseServerName(string(name)); err != nil {
		return Target{}, fmt.Errorf("resolving a server name: %w", err)
	}
	if target, ok := r.direct(name); ok { // steps 1 and 2
		return target, nil
	}
	if a, ok := r.recall(name); ok {
		return a.target, a.err
	}
	// Whoever comes first starts the look-up, but must not take it away from the others by giving up.
	shared := r.flights.DoChan(string(name), func() (any, error) {
		lookup, cancel := context.WithTimeout(context.WithoutCancel(ctx), resolveTimeout)
		defer cancel()
		a := r.discover(lookup, name)
		r.remember(name, a)
		return a.target, a.err
	})
	select {
	case <-ctx.Done():
		return Target{}, fmt.Errorf("resolving %s: %w", name, ctx.Err())
	case result := <-shared:
		target, _ := result.Val.(Target)
		return target, result.Err
	}
}

// direct handles names that say themselves where to go: IP literals, and hosts with a port.
func (r *Resolver) direct(name id.ServerName) (Target, bool) {
	host, port := name.Host(), name.Port()
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		if port == "" {
			port = r.federationPort()
		}
		bare := addr.String()
		return Target{Addresses: []string{net.JoinHostPort(bare, port)}, Host: string(name), TLSName: bare}, true
	}
	if port != "" {
		return Target{Addresses: []string{net.JoinHostPort(host, port)}, Host: string(name), TLSName: host}, true
	}
	return Target{}, false
}

// discover takes steps 3 to 6.
func (r *Resolver) discover(ctx context.Context, name id.ServerName) answer {
	delegated, lifetime, err := r.wellKnown(ctx, name)
	if err != nil {
		a := r.bySRV(ctx, name.Host()) // steps 4 to 6
		a.failures = r.failures(name) + 1
		a.lifetime = min(a.lifetime, failureLifetime(a.failures))
		return a
	}
	if target, ok := r.direct(delegated); ok { // steps 3.1 and 3.2
		return answer{target: target, lifetime: lifetime}
	}
	a := r.bySRV(ctx, delegated.Host()) // steps 3.3 to 3.5
	a.lifetime = min(a.lifetime, lifetime)
	return a
}

// bySRV looks up SRV records under the registered service name, then under the deprecated one, and else
// takes the host itself and the usual port. A failed look-up counts as no record: name servers that
// answer nothing or an error for SRV records are common, and the certificate must fit the host anyway.
func (r *Resolver) bySRV(ctx context.Context, host string) answer {
	a := answer{target: Target{Host: host, TLSName: host}, lifetime: srvLifetime}
	lookup, cancel := context.WithTimeout(ctx, srvTimeout)
	defer cancel()
	for _, service := range []string{"matrix-fed", "matrix"} {
		_, records, err := r.Guard.resolver().LookupSRV(lookup, service, "tcp", strings.TrimSuffix(host, ".")+".")
		if err != nil && len(records) == 0 {
			continue
		}
		if len(records) == 1 && records[0].Target == "." { // RFC 2782: the service is decidedly not offered
			a.err = fmt.Errorf("resolving %s: its SRV record says that it offers no federation", host)
			return a
		}
		for _, record := range records[:min(len(records), maxSRV)] {
			target := strings.TrimSuffix(record.Target, ".")
			a.target.Addresses = append(a.target.Addresses, net.JoinHostPort(target, strconv.Itoa(int(record.Port))))
		}
		if len(a.target.Addresses) > 0 {
			return a
		}
	}
	a.target.Addresses = []string{net.JoinHostPort(host, r.federationPort())}
	return a
}

func (r *Resolver) federationPort() string {
	if r.FederationPort != 0 {
		return strconv.Itoa(int(r.FederationPort))
	}
	return strconv.Itoa(federationPort)
}
