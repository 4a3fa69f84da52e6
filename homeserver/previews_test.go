package homeserver_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver/hstest"
)

// TestPreviewsStayOut: who lets other servers be in a private network does not let users read pages there.
func TestPreviewsStayOut(t *testing.T) {
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<title>inside</title>"))
	}))
	defer inside.Close()
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for name, test := range map[string]struct {
		change func(*config.Media)
		status int
		code   string
	}{
		"usual":        {func(*config.Media) {}, 502, "M_UNKNOWN"},
		"a network":    {func(m *config.Media) { m.PreviewNetworks = loopback }, 200, ""},
		"switched off": {func(m *config.Media) { m.Previews, m.PreviewNetworks = false, loopback }, 404, "M_UNRECOGNIZED"},
	} {
		t.Run(name, func(t *testing.T) {
			s := hstest.New(t, func(c *config.Config) {
				c.Federation.AllowNetworks = loopback
				test.change(&c.Media)
			})
			path := "/v1/media/preview_url?url=" + inside.URL
			if alice := s.Register("alice"); test.code == "" {
				alice.Must("GET", path, nil, nil)
			} else {
				alice.Refused("GET", path, nil, test.status, test.code)
			}
		})
	}
}
