package cli

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeCertificate writes a certificate that signs itself, and ends at a time, and its key.
func writeCertificate(t *testing.T, cert, key string, ends time.Time) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"one.test"}, NotBefore: ends.AddDate(0, -3, 0), NotAfter: ends}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCheckOfCertificates: "config check" refuses a certificate that has ended or cannot be read, and warns of one that ends
// soon.
func TestCheckOfCertificates(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	check := func() (code int, out, notes string) {
		var stdout, stderr bytes.Buffer
		code = Run(t.Context(), []string{
			"config", "check", "--server.name", "one.test", "--server.data_dir", filepath.Join(dir, "data"), "--tls.mode", "files", "--tls.cert", cert, "--tls.key", key,
		}, Stdio{In: strings.NewReader(""), Out: &stdout, Err: &stderr, Env: []string{}})
		return code, stdout.String(), stderr.String()
	}
	day := 24 * time.Hour
	for _, c := range []struct {
		left time.Duration
		code int
		note string // how the notes begin
	}{
		{-time.Minute, exitFailure, "securecomm: tls.cert and tls.key: the certificate has ended on "},
		{day, exitOK, "warning: the certificate of tls.cert ends soon, on "},
		{90 * day, exitOK, ""},
	} {
		ends := time.Now().Add(c.left)
		writeCertificate(t, cert, key, ends)
		code, out, notes := check()
		if code != c.code || (out != "") != (code == exitOK) || !strings.HasPrefix(notes, c.note) || (notes == "") != (c.note == "") {
			t.Errorf("of a certificate that ends in %s: %d, %q, %q", c.left, code, out, notes)
		}
		if c.note != "" && !strings.Contains(notes, ends.UTC().Format(time.DateOnly)) {
			t.Errorf("it is not told when: %q", notes)
		}
	}
	if err := os.WriteFile(key, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, notes := check(); code != exitFailure || !strings.Contains(notes, "tls.cert and tls.key") {
		t.Errorf("of a key that is none: %d, %q", code, notes)
	}
}
