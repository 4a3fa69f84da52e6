package homeserver

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/federation/discovery/discoverytest"
)

// TestStrangersNamesAreNoAlarm: what a client asks for that there can be no certificate for says nothing of those there are.
func TestStrangersNamesAreNoAlarm(t *testing.T) {
	s, log := open(t)
	s.Config.TLS = config.TLS{Mode: config.TLSACME, ACMEDirectory: "https://127.0.0.1:1/directory"}
	c, err := s.loadCertificates()
	if err != nil {
		t.Fatal(err)
	}
	log.take()
	for _, name := range []string{"", "scanner.test"} {
		if _, err := c.get(&tls.ClientHelloInfo{ServerName: name}); err == nil {
			t.Errorf("there is a certificate for %q", name)
		}
	}
	if text := log.take(); text != "" {
		t.Errorf("strangers have the log say\n%s", text)
	}
	if _, err := c.get(&tls.ClientHelloInfo{ServerName: s.Config.ACMEDomains()[0]}); err == nil || !strings.Contains(log.take(), "cannot be loaded") {
		t.Errorf("a failure of our own certificate is not told: %v", err)
	}
}

// TestCertificateIsLookedAtAgain has a certificate be replaced, be broken, and be near its end.
func TestCertificateIsLookedAtAgain(t *testing.T) {
	ca, dir := discoverytest.NewCA(t), t.TempDir()
	s, log := open(t)
	s.Config.TLS = config.TLS{Mode: config.TLSFiles, Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	if _, err := s.loadCertificates(); err == nil {
		t.Error("a certificate that is not there was loaded")
	}
	ca.WriteFiles(dir, "one.test")
	c, err := s.loadCertificates()
	if err != nil {
		t.Fatal(err)
	}
	serial := func() string {
		pair, err := c.config().GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf.SerialNumber.String()
	}
	first := serial()
	if text := log.take(); strings.Count(text, "ends soon") != 1 {
		t.Errorf("of a certificate that ends in an hour the log says\n%s", text)
	}
	ca.WriteFiles(dir, "one.test")
	if serial() != first {
		t.Error("the files were looked at by each client")
	}
	s.Reload()
	second := serial()
	if second == first {
		t.Error("a new certificate is not served")
	}
	log.take()
	key, err := os.ReadFile(s.Config.TLS.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, broken := range [][]byte{key[:len(key)/2], nil} {
		if err := os.WriteFile(s.Config.TLS.Key, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		s.Reload()
		for range 3 {
			if serial() != second {
				t.Error("with half a key, something else is served than before")
			}
		}
		if text := log.take(); strings.Count(text, "cannot be loaded") != 1 {
			t.Errorf("of half a key the log says\n%s", text)
		}
	}
}
