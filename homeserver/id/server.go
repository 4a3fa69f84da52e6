package id

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ParseServerName checks a server name: a DNS name, an IPv4 address or a bracketed IPv6 address, and
// perhaps a port (Appendices, "Server Name").
func ParseServerName(s string) (ServerName, error) {
	host, port, ok := splitPort(s)
	if !ok || len(s) > 230 {
		return "", fmt.Errorf("%w: not a server name", ErrInvalid)
	}
	if port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || len(port) > 5 {
			return "", fmt.Errorf("%w: not a port number in a server name", ErrInvalid)
		}
	}
	if strings.HasPrefix(host, "[") {
		addr, err := netip.ParseAddr(host[1 : len(host)-1])
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return "", fmt.Errorf("%w: not an IPv6 address in a server name", ErrInvalid)
		}
		return ServerName(s), nil
	}
	if host == "" {
		return "", fmt.Errorf("%w: the server name is empty", ErrInvalid)
	}
	for _, c := range []byte(host) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return "", fmt.Errorf("%w: server names may have only letters, digits, - and .", ErrInvalid)
		}
	}
	return ServerName(s), nil
}

// Host is the name without its port; IPv6 addresses keep their brackets.
func (s ServerName) Host() string {
	host, _, _ := splitPort(string(s))
	return host
}

// Port is the explicit port, or empty.
func (s ServerName) Port() string {
	_, port, _ := splitPort(string(s))
	return port
}

func splitPort(s string) (host, port string, ok bool) {
	end := 0
	if strings.HasPrefix(s, "[") {
		if end = strings.IndexByte(s, ']') + 1; end == 0 {
			return "", "", false
		}
	}
	i := strings.IndexByte(s[end:], ':')
	if i < 0 {
		return s, "", end == 0 || end == len(s)
	}
	if end > 0 && i > 0 {
		return "", "", false
	}
	host, port = s[:end+i], s[end+i+1:]
	return host, port, port != ""
}
