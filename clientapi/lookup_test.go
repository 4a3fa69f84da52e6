package clientapi_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver/hstest"
)

// TestStrangersLearnNothingOfTheNetwork asks, without an account, for what is at a name that leads inside.
func TestStrangersLearnNothingOfTheNetwork(t *testing.T) {
	for name, allowed := range map[string][]netip.Prefix{"dialled": {netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}, "refused": nil} {
		t.Run(name, func(t *testing.T) {
			s := hstest.New(t, func(c *config.Config) { c.Federation.Enabled, c.Federation.AllowNetworks = true, allowed })
			stranger := &hstest.User{Server: s}
			for _, path := range []string{"/v3/publicRooms?server=localhost:1", "/v3/profile/@x:localhost:1", "/v3/directory/room/%23x:localhost:1"} {
				status, body := stranger.Do("GET", path, nil)
				if status != http.StatusBadGateway || !strings.Contains(string(body), `"M_UNKNOWN"`) {
					t.Errorf("%s: %d %s", path, status, body)
				}
				for _, secret := range []string{"127.0.0.1", "::1", "address", "dial", "localhost"} {
					if strings.Contains(string(body), secret) {
						t.Errorf("%s tells %q: %s", path, secret, body)
					}
				}
			}
		})
	}
}
