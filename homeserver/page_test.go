package homeserver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver/hstest"
)

// get asks for a page, by whatever a client speaks.
func get(t *testing.T, client *http.Client, url string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	raw, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a, string(raw)
}

// TestPage: a browser at the server's address is told what it is, and is let do nothing.
func TestPage(t *testing.T) {
	s := hstest.New(t, func(c *config.Config) {
		c.WellKnown.SupportEmail, c.WellKnown.SupportPage = "help@one.test", "javascript:alert(1)"
	})
	a, body := get(t, http.DefaultClient, s.URL+"/")
	policy := a.Header.Get("Content-Security-Policy")
	if a.StatusCode != 200 || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") || !strings.Contains(policy, "default-src 'none'") {
		t.Errorf("got %d, %v", a.StatusCode, a.Header)
	}
	for _, want := range []string{"<title>one.test</title>", "Matrix server", "mailto:help@one.test", s.Config.BaseURL()} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if strings.Contains(body, "<script") || strings.Contains(body, `href="javascript`) {
		t.Errorf("the page has a script: %s", body)
	}
	if strings.Count(body, "<style>") != 1 || !strings.Contains(policy, "style-src 'sha256-") {
		t.Errorf("the policy is %s", policy)
	}
	nobody := &hstest.User{Server: s}
	if status, _ := nobody.Do("POST", "/_", nil); status != 404 {
		t.Errorf("something else: %d", status)
	}
}

// TestHTTP2: what has TLS of its own speaks HTTP/2 with who can.
func TestHTTP2(t *testing.T) {
	one, _ := hstest.Pair(t)
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(one.Config.Federation.CAFiles[0])
	if err != nil || !roots.AppendCertsFromPEM(ca) {
		t.Fatal(err)
	}
	for two, want := range map[bool]int{true: 2, false: 1} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: two}
		defer transport.CloseIdleConnections()
		a, body := get(t, &http.Client{Transport: transport}, "https://"+string(one.Name)+"/_matrix/federation/v1/version")
		if a.ProtoMajor != want || a.StatusCode != 200 {
			t.Errorf("got %s, %d %s", a.Proto, a.StatusCode, body)
		}
	}
}
