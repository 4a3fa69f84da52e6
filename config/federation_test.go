package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
)

func TestFederationAllows(t *testing.T) {
	tests := []struct {
		allow, deny []string
		server      id.ServerName
		want        bool
	}{
		{nil, nil, "any.example", true},
		{[]string{"good.example"}, nil, "good.example", true},
		{[]string{"good.example"}, nil, "good.example:8448", true},
		{[]string{"good.example"}, nil, "GOOD.example", true},
		{[]string{"good.example"}, nil, "notgood.example", false},
		{[]string{"*.good.example"}, nil, "a.b.good.example", true},
		{[]string{"*.good.example"}, nil, "good.example", false},
		{[]string{"*.good.example"}, nil, "notgood.example", false},
		{[]string{"*"}, []string{"bad.example"}, "bad.example", false},
		{nil, []string{"bad.example"}, "bad.example:1", false},
		{nil, []string{"bad.example"}, "good.example", true},
		{nil, []string{"*"}, "any.example", false},
	}
	for _, test := range tests {
		f := Federation{Enabled: true, AllowServers: test.allow, DenyServers: test.deny}
		if got := f.Allows(test.server); got != test.want {
			t.Errorf("allow %v deny %v: Allows(%s) = %v", test.allow, test.deny, test.server, got)
		}
		if f.Enabled = false; f.Allows(test.server) {
			t.Errorf("federation is off, but Allows(%s)", test.server)
		}
	}
}

func TestRootCAs(t *testing.T) {
	if pool, err := (Federation{}).RootCAs(); pool != nil || err != nil {
		t.Errorf("without files: %v, %v", pool, err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte("not a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (Federation{CAFiles: []string{file}}).RootCAs(); err == nil {
		t.Error("a file without certificates is accepted")
	}
}
