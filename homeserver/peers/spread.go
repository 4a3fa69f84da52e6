package peers

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Site is what stands for the owner of a server's name: the domain below a public suffix, or the address; of IPv6 the network
// that one host usually has to itself. Whoever has a domain has as many names below it, and ports, as they like.
func Site(server id.ServerName) string {
	host := strings.ToLower(strings.TrimSuffix(server.Host(), "."))
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		if addr = addr.Unmap(); addr.Is6() {
			network, _ := addr.Prefix(64)
			return network.String()
		}
		return addr.String()
	}
	if domain, err := publicsuffix.EffectiveTLDPlusOne(host); err == nil {
		return domain
	}
	return host
}

// Spread orders servers, given best first, so that the second of a site comes after the first of all, and so on. Those that
// failed lately come last, and take up places of their site nonetheless.
func Spread(servers []id.ServerName, failed func(id.ServerName) bool) []id.ServerName {
	type place struct {
		server id.ServerName
		failed int
		round  int
	}
	rounds := map[string]int{}
	places := make([]place, 0, len(servers))
	for _, late := range []bool{true, false} {
		for _, s := range servers {
			if failed(s) != late {
				continue
			}
			site := Site(s)
			p := place{s, 0, rounds[site]}
			if late {
				p.failed = 1
			}
			rounds[site]++
			places = append(places, p)
		}
	}
	slices.SortStableFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.failed, b.failed), cmp.Compare(a.round, b.round))
	})
	out := make([]id.ServerName, len(places))
	for i, p := range places {
		out[i] = p.server
	}
	return out
}
