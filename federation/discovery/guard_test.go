package discovery_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/securecomm/securecomm/federation/discovery"
	"github.com/securecomm/securecomm/federation/discovery/discoverytest"
)

func TestGuardCheck(t *testing.T) {
	for _, c := range []struct {
		addr   string
		public bool
	}{
		{"1.1.1.1", true},
		{"9.255.255.255", true},
		{"11.0.0.0", true},
		{"172.15.255.255", true},
		{"172.32.0.0", true},
		{"100.63.255.255", true},
		{"100.128.0.0", true},
		{"223.255.255.255", true},
		{"2606:4700:4700::1111", true},
		{"2a00:1450:4001:80e::200e", true},
		{"::ffff:1.1.1.1", true},
		{"0.0.0.0", false},
		{"0.1.2.3", false},
		{"10.0.0.1", false},
		{"100.64.0.1", false},
		{"127.0.0.1", false},
		{"127.255.255.254", false},
		{"169.254.169.254", false},
		{"172.16.0.1", false},
		{"172.31.255.255", false},
		{"192.0.0.8", false},
		{"192.0.2.1", false},
		{"192.88.99.1", false},
		{"192.168.1.1", false},
		{"198.18.0.1", false},
		{"198.19.255.255", false},
		{"198.51.100.1", false},
		{"203.0.113.1", false},
		{"224.0.0.1", false},
		{"240.0.0.1", false},
		{"255.255.255.255", false},
		{"::", false},
		{"::1", false},
		{"::ffff:127.0.0.1", false},
		{"::ffff:10.0.0.1", false},
		{"::ffff:169.254.169.254", false},
		{"::ffff:0:127.0.0.1", false},
		{"::127.0.0.1", false},
		{"64:ff9b::10.0.0.1", false},
		{"64:ff9b:1::1", false},
		{"100::1", false},
		{"2001::1", false},
		{"2001:20::1", false},
		{"2001:db8::1", false},
		{"2002:7f00:1::1", false},
		{"3fff::1", false},
		{"5f00::1", false},
		{"fc00::1", false},
		{"fd12:3456::1", false},
		{"fe80::1", false},
		{"fe80::1%eth0", false},
		{"2a00::1%eth0", false},
		{"fec0::1", false},
		{"ff02::1", false},
	} {
		err := new(discovery.Guard).Check(netip.MustParseAddr(c.addr))
		if (err == nil) != c.public {
			t.Errorf("%s: %v", c.addr, err)
		}
		if err != nil && !errors.Is(err, discovery.ErrForbiddenAddress) {
			t.Errorf("%s: %v does not wrap ErrForbiddenAddress", c.addr, err)
		}
	}
	if new(discovery.Guard).Check(netip.Addr{}) == nil {
		t.Error("the invalid address was allowed")
	}
}

func TestGuardCheckAllowedNetwork(t *testing.T) {
	g := &discovery.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/64")}}
	for addr, allowed := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": false, "127.0.0.1": false,
		"fd00::1": true, "fd00:0:0:1::1": false, "fd00::1%eth0": false, "1.1.1.1": true,
	} {
		if err := g.Check(netip.MustParseAddr(addr)); (err == nil) != allowed {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func listen(t *testing.T) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

func TestGuardDial(t *testing.T) {
	port := listen(t)
	dns := &discoverytest.DNS{Hosts: map[string][]netip.Addr{
		"inside.test.":       {netip.MustParseAddr("127.0.0.1")},
		"mapped.test.":       {netip.MustParseAddr("::ffff:127.0.0.1")},
		"mixed.test.":        {netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("127.0.0.1")},
		"no-addresses.test.": {},
	}}
	dns.Start(t)
	closed := &discovery.Guard{Resolver: dns.Resolver()}
	open := &discovery.Guard{Resolver: dns.Resolver(), Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
	for _, c := range []struct {
		what, host string
		guard      *discovery.Guard
		connects   bool
		forbidden  bool
	}{
		{"loopback by address", "127.0.0.1", closed, false, true},
		{"loopback by mapped address", "::ffff:127.0.0.1", closed, false, true},
		{"loopback by name", "inside.test", closed, false, true},
		{"loopback by a mapped address behind a name", "mapped.test", closed, false, true},
		{"allowed by address", "127.0.0.1", open, true, false},
		{"allowed by name", "inside.test", open, true, false},
		{"one of two is allowed", "mixed.test", open, true, false},
		{"unknown name", "unknown.test", open, false, false},
		{"name without address", "no-addresses.test", open, false, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			conn, err := c.guard.DialContext(t.Context(), "tcp", net.JoinHostPort(c.host, port))
			if (err == nil) != c.connects || errors.Is(err, discovery.ErrForbiddenAddress) != c.forbidden {
				t.Fatalf("got %v", err)
			}
			if err == nil {
				if to, _, _ := net.SplitHostPort(conn.RemoteAddr().String()); to != "127.0.0.1" {
					t.Errorf("connected to %s", to)
				}
				_ = conn.Close()
			}
		})
	}
}

// A name is resolved once per connection: an answer that changes between check and use can't matter.
func TestGuardResolvesOnce(t *testing.T) {
	port := listen(t)
	dns := &discoverytest.DNS{Hosts: map[string][]netip.Addr{"inside.test.": {netip.MustParseAddr("127.0.0.1")}}}
	dns.Start(t)
	g := &discovery.Guard{Resolver: dns.Resolver(), Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	conn, err := g.DialContext(t.Context(), "tcp4", "inside.test:"+port)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if n := dns.Asked("inside.test."); n != 1 {
		t.Errorf("%d questions for one IPv4 connection", n)
	}
}

func TestGuardDialTriesAllAddresses(t *testing.T) {
	port := listen(t) // on 127.0.0.1 only: 127.0.0.2 refuses
	dns := &discoverytest.DNS{Hosts: map[string][]netip.Addr{
		"two.test.":  {netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.1")},
		"none.test.": {netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")},
	}}
	dns.Start(t)
	g := &discovery.Guard{Resolver: dns.Resolver(), Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	conn, err := g.DialContext(t.Context(), "tcp", "two.test:"+port)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if _, err := g.DialContext(t.Context(), "tcp", "none.test:"+port); err == nil {
		t.Error("connected where nothing listens")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.DialContext(ctx, "tcp", "127.0.0.1:"+port); !errors.Is(err, context.Canceled) {
		t.Errorf("dialled after the end of its context: %v", err)
	}
}

func TestGuardRefusesOtherNetworks(t *testing.T) {
	for _, network := range []string{"udp", "unix", "ip"} {
		if _, err := new(discovery.Guard).DialContext(t.Context(), network, "1.1.1.1:53"); err == nil {
			t.Errorf("%s was dialled", network)
		}
	}
}
