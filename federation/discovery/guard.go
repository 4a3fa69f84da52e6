package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

const (
	// connectTimeout bounds the connection to one address.
	connectTimeout = 10 * time.Second
	// lookupTimeout bounds the resolution of one name.
	lookupTimeout = 10 * time.Second
	// attemptDelay is the head start of one address over the next (RFC 8305, section 5).
	attemptDelay = 250 * time.Millisecond
	// maxAddresses bounds how many addresses of one name are tried.
	maxAddresses = 8
)

// ErrForbiddenAddress is wrapped by every refusal of the Guard.
var ErrForbiddenAddress = errors.New("address is not on the public internet and no allowed network has it")

// Guard dials addresses of the public internet and of the networks in Allow, and no others. The zero
// value is ready to use and allows no private network. It is safe for concurrent use.
type Guard struct {
	// Allow lists networks that may be dialled although they are not public.
	Allow []netip.Prefix
	// Resolver looks names up; nil is the system's.
	Resolver *net.Resolver
}

// Check tells whether an address may be dialled. An IPv4 address in IPv6 form counts as the IPv4 address.
func (g *Guard) Check(addr netip.Addr) error {
	addr = addr.Unmap()
	if !addr.IsValid() || addr.Zone() != "" {
		return fmt.Errorf("%w: %s", ErrForbiddenAddress, addr)
	}
	for _, p := range g.Allow {
		if p.Contains(addr) {
			return nil
		}
	}
	if !public(addr) {
		return fmt.Errorf("%w: %s", ErrForbiddenAddress, addr)
	}
	return nil
}

// DialContext connects to "host:port" over TCP, as net.Dialer.DialContext does. It fits
// http.Transport.DialContext.
func (g *Guard) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, fmt.Errorf("dialling %s: network %q is not TCP", address, network)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", address, err)
	}
	addrs, err := g.lookup(ctx, network, host)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", address, err)
	}
	conn, err := race(ctx, network, addrs, port)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", address, err)
	}
	return conn, nil
}

// lookup resolves a host once and keeps the addresses that may be dialled.
func (g *Guard) lookup(ctx context.Context, network, host string) ([]netip.Addr, error) {
	var found []netip.Addr
	if addr, err := netip.ParseAddr(host); err == nil {
		found = []netip.Addr{addr}
	} else {
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		if found, err = g.resolver().LookupNetIP(ctx, "ip"+network[len("tcp"):], host); err != nil {
			return nil, err
		}
	}
	var allowed []netip.Addr
	refusal := fmt.Errorf("%s has no address", host)
	for _, addr := range found {
		addr = addr.Unmap()
		if err := g.Check(addr); err != nil {
			refusal = err
			continue
		}
		if allowed = append(allowed, addr); len(allowed) == maxAddresses {
			break
		}
	}
	if len(allowed) == 0 {
		return nil, refusal
	}
	return allowed, nil
}

func (g *Guard) resolver() *net.Resolver {
	if g.Resolver != nil {
		return g.Resolver
	}
	return net.DefaultResolver
}

// race connects to the first address that answers: each one starts when those before it failed, or are
// late by attemptDelay, so that an address family without a route costs little.
func race(ctx context.Context, network string, addrs []netip.Addr, port string) (net.Conn, error) {
	type outcome struct {
		conn net.Conn
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	outcomes := make(chan outcome)
	started, ended := 0, 0
	defer func() {
		cancel()
		go func(left int) {
			for range left {
				if late := <-outcomes; late.conn != nil {
					_ = late.conn.Close()
				}
			}
		}(started - ended)
	}()
	start := func() {
		to := net.JoinHostPort(addrs[started].String(), port)
		started++
		go func() {
			d := net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}
			conn, err := d.DialContext(ctx, network, to)
			outcomes <- outcome{conn, err}
		}()
	}
	var errs []error
	next := time.NewTicker(attemptDelay)
	defer next.Stop()
	start()
	for {
		select {
		case o := <-outcomes:
			ended++
			if o.err == nil {
				return o.conn, nil
			}
			errs = append(errs, o.err)
			if ended == len(addrs) {
				return nil, errors.Join(errs...)
			}
			if started < len(addrs) {
				start()
			}
		case <-next.C:
			if started < len(addrs) {
				start()
			}
		}
	}
}
