package clientapi

import (
	"net/http"
	"net/netip"
	"testing"
)

func TestStrangersAreCountedByNetwork(t *testing.T) {
	proxy := netip.MustParsePrefix("192.0.2.9/32")
	count := NetworkOf([]netip.Prefix{proxy})
	for address, want := range map[string]string{
		"192.0.2.1:5": "192.0.2.1", "[::ffff:192.0.2.1]:5": "::ffff:192.0.2.1", "[2001:db8:1:2:3::4]:5": "2001:db8:1:2::/64",
		"[2001:db8:1:2::5]:6": "2001:db8:1:2::/64", "[2001:db8:1:3::4]:5": "2001:db8:1:3::/64",
	} {
		if got := count(&http.Request{RemoteAddr: address}); got != want {
			t.Errorf("%s counts as %s", address, got)
		}
	}
	for _, address := range []string{"fe80::1%eth0", "fe80::2"} {
		if got := network(address); got != "fe80::/64" {
			t.Errorf("%s counts as %s", address, got)
		}
	}
	named := &http.Request{RemoteAddr: "192.0.2.9:5", Header: http.Header{"X-Forwarded-For": {"2001:db8:1:2:3::4"}}}
	if got := count(named); got != "2001:db8:1:2::/64" {
		t.Errorf("an address that a proxy names counts as %s", got)
	}
}
