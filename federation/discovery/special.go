package discovery

import "net/netip"

// public tells whether an address belongs to the public internet: IPv4 outside the special-purpose
// blocks, IPv6 inside the global unicast block and outside the special-purpose ones (IANA's IPv4 and
// IPv6 Special-Purpose Address Registries). IPv6 forms that carry an IPv4 address to a translator or
// relay count as special: what they lead to is out of our sight. Where a network reaches IPv4 only
// through NAT64, its administrator allows the prefix.
func public(addr netip.Addr) bool {
	if addr.Is4() {
		return !in(specialIPv4(), addr)
	}
	return globalUnicast().Contains(addr) && !in(specialIPv6(), addr)
}

func in(blocks []netip.Prefix, addr netip.Addr) bool {
	for _, p := range blocks {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

func globalUnicast() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20}), 3) // 2000::/3
}

func specialIPv4() []netip.Prefix {
	block := func(a, b, c, d byte, bits int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{a, b, c, d}), bits)
	}
	return []netip.Prefix{
		block(0, 0, 0, 0, 8),       // this network, RFC 791
		block(10, 0, 0, 0, 8),      // private, RFC 1918
		block(100, 64, 0, 0, 10),   // carrier-grade NAT, RFC 6598
		block(127, 0, 0, 0, 8),     // loopback, RFC 1122
		block(169, 254, 0, 0, 16),  // link-local, RFC 3927; cloud metadata services live here
		block(172, 16, 0, 0, 12),   // private, RFC 1918
		block(192, 0, 0, 0, 24),    // protocol assignments, RFC 6890
		block(192, 0, 2, 0, 24),    // documentation, RFC 5737
		block(192, 31, 196, 0, 24), // AS112, RFC 7535
		block(192, 52, 193, 0, 24), // automatic multicast tunnels, RFC 7450
		block(192, 88, 99, 0, 24),  // relays of 6to4, RFC 7526
		block(192, 168, 0, 0, 16),  // private, RFC 1918
		block(192, 175, 48, 0, 24), // AS112, RFC 7534
		block(198, 18, 0, 0, 15),   // benchmarks, RFC 2544
		block(198, 51, 100, 0, 24), // documentation, RFC 5737
		block(203, 0, 113, 0, 24),  // documentation, RFC 5737
		block(224, 0, 0, 0, 4),     // multicast, RFC 5771
		block(240, 0, 0, 0, 4),     // reserved, RFC 1112, and broadcast
	}
}

func specialIPv6() []netip.Prefix {
	block := func(bits int, head ...byte) netip.Prefix {
		var a [16]byte
		copy(a[:], head)
		return netip.PrefixFrom(netip.AddrFrom16(a), bits)
	}
	return []netip.Prefix{
		block(23, 0x20, 0x01, 0x00),             // protocol assignments with Teredo and ORCHID, RFC 2928
		block(32, 0x20, 0x01, 0x0d, 0xb8),       // documentation, RFC 3849
		block(16, 0x20, 0x02),                   // 6to4, RFC 3056
		block(48, 0x26, 0x20, 0x00, 0x4f, 0x80), // AS112, RFC 7534
		block(20, 0x3f, 0xff, 0x00),             // documentation, RFC 9637
	}
}
