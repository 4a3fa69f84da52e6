package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "securecomm.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func same(t *testing.T, got, want *Config) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("configuration differs (-want +got):\n%s", diff)
	}
}

func TestLayersOutweighInOrder(t *testing.T) {
	file := write(t, "server:\n  name: file.example\n  data_dir: /from/file\nlog.level: debug\nlog:\n  format: json\n")
	env := []string{"SECURECOMM_SERVER_DATA_DIR=/from/env", "SECURECOMM_LOG_LEVEL=warn", "SECURECOMM_LOG_FORMAT=", "HOME=/root"}
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	AddFlags(flags)
	if err := flags.Parse([]string{"--log.level=error", "--federation.enabled"}); err != nil {
		t.Fatal(err)
	}
	got, err := Load(Options{File: file, Env: env, Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Server.Name = "file.example"
	want.Server.DataDir = "/from/env"
	want.Log = Log{Level: "error", Format: "json"}
	want.Federation.Enabled = true
	same(t, got, want)
}

func TestNothingGivesDefaults(t *testing.T) {
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	AddFlags(flags)
	got, err := Load(Options{Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, Default())
	if got.Registration.Enabled || got.Federation.Enabled || !strings.HasPrefix(got.Listen.Client, "127.0.0.1:") {
		t.Error("the defaults are not closed")
	}
}

func TestDevChangesDefaultsOnly(t *testing.T) {
	got, err := Load(Options{Env: []string{"SECURECOMM_DEV=true", "SECURECOMM_LIMITS_ENABLED=true"}})
	if err != nil {
		t.Fatal(err)
	}
	want := Dev()
	want.Limits.Enabled = true
	same(t, got, want)
	if problems := Dev().check(nil); len(problems) > 0 {
		t.Errorf("Dev() does not pass its own check: %v", problems)
	}
}

func TestValuesOfEveryKind(t *testing.T) {
	got, err := Load(Options{
		File: write(t, `
federation: {allow_networks: [10.1.2.3/8, "fd00::1"], trusted_notaries: [one.example, "two.example:8448"]}
media: {max_upload: 1024, max_pixels: 5, remote_max: 2GB, keep_free: 2GiB, user_quota: 3GiB, cache_max: 0, unauthenticated: true, previews: false, preview_networks: [10.0.0.0/8]}
session: {access_token_lifetime: 7d}
limits: {message: {per_user: 5/s, per_address: 7/1m30s}, login: {per_user: off}}
server: {old_keys: ["ed25519:old AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE 1700000000000"]}
registration: {shared_secret: "12345678"}
`),
		Env: []string{"SECURECOMM_FEDERATION_DENY_SERVERS=bad.example, *.worse.example", "SECURECOMM_DATABASE_URL=postgres://u:p@h/d"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Federation.AllowNetworks = append(prefixes("10.0.0.0/8"), prefixes("fd00::1/128")...)
	want.Federation.TrustedNotaries = append(want.Federation.TrustedNotaries, "one.example", "two.example:8448")
	want.Federation.DenyServers = []string{"bad.example", "*.worse.example"}
	want.Media = Media{MaxUpload: 1024, MaxPixels: 5, RemoteMax: 2e9, KeepFree: 2 << 30, UserQuota: 3 << 30, Unauthenticated: true, PreviewNetworks: prefixes("10.0.0.0/8")}
	want.Session.AccessTokenLifetime = 7 * 24 * time.Hour
	want.Limits.Message = Class{PerUser: Rate{5, time.Second}, PerAddress: Rate{7, 90 * time.Second}}
	want.Limits.Login.PerUser = Rate{}
	want.Registration.SharedSecret = "12345678"
	want.Server.OldKeys = []OldKey{{"ed25519:old", append(make([]byte, 31), 1), time.UnixMilli(1700000000000)}}
	want.Database.URL = "postgres://u:p@h/d"
	same(t, got, want)
}

// TestRefusals gives one wrong line each, and what the error has to name.
func TestRefusals(t *testing.T) {
	tests := []struct{ name, file, env, want string }{
		{"unknown key", "server: {nmae: x}", "", "server.nmae (in FILE) is unknown; did you mean server.name?"},
		{"key without its section", "shared_secret: x", "", "did you mean registration.shared_secret?"},
		{"key below a key", "server: {name: {x: y}}", "", "server.name.x (in FILE) is unknown; did you mean server.name?"},
		{"section as a value", "server: example.org", "", "server (in FILE) is a section"},
		{"unknown variable", "", "SECURECOMM_SERVER_NAM=x", "did you mean SECURECOMM_SERVER_NAME?"},
		{"server name", "server: {name: 'a b'}", "", `server.name (in FILE) is "a b", which is not a server name`},
		{"bool", "", "SECURECOMM_DEV=maybe", `dev (in SECURECOMM_DEV) is "maybe", which is neither true nor false`},
		{"number", "database: {readers: -1}", "", "database.readers"},
		{"number with a fraction", "database: {readers: 1.5}", "", "database.readers"},
		{"duration without unit", "session: {access_token_lifetime: 30}", "", "not a duration"},
		{"duration too long", "session: {access_token_lifetime: 999999999d}", "", "not a duration"},
		{"cache", "media: {cache_max: 999MiB}", "", "media.cache_max"},
		{"size", "media: {max_upload: 5 potatoes}", "", "not a size"},
		{"size too large", "media: {max_upload: 9999999999GiB}", "", "not a size"},
		{"rate", "limits: {join: {per_user: often}}", "", "not a rate"},
		{"rate per nothing", "limits: {join: {per_user: 5/0s}}", "", "not a rate"},
		{"network", "federation: {allow_networks: [intranet]}", "", `has the entry "intranet", which is not a network`},
		{"list", "federation: {allow_networks: {a: b}}", "", "federation.allow_networks.a (in FILE) is unknown"},
		{"list as a number", "federation: {ca_files: 5}", "", "federation.ca_files (in FILE) is not a list"},
		{"value as a list", "server: {name: [a, b]}", "", "server.name (in FILE) is not a single value"},
		{"old key without a time", "server: {old_keys: ['ed25519:a AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE']}", "", "which is not an old key"},
		{"old key of another size", "server: {old_keys: ['ed25519:a AAAA 5']}", "", "which is not an old key"},
		{"old key of another kind", "server: {old_keys: ['rsa:a AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE 5']}", "", "which is not an old key"},
		{"log level", "log: {level: loud}", "", `log.level (in FILE) is "loud"; write one of debug, info, warn, error`},
		{"address", "listen: {client: here}", "", "listen.client"},
		{"address twice", "listen: {federation: '127.0.0.1:8008'}", "", "same address as listen.client"},
		{"tls without files", "tls: {mode: files, cert: a.pem}", "", "tls.key is empty"},
		{"tls for clients without mode", "tls: {client: true}", "", "tls.client (in FILE) needs certificates"},
		{"acme for localhost", "tls: {mode: acme}", "", "tls.acme_domains"},
		{"federation of localhost", "federation: {enabled: true}", "", "server.name is localhost"},
		{"server pattern", "federation: {deny_servers: ['*bad']}", "", `has the entry "*bad"`},
		{"missing authority", "federation: {ca_files: [/nowhere/ca.pem]}", "", `names "/nowhere/ca.pem", which is no file`},
		{"base url", "server: {base_url: example.org}", "", "server.base_url"},
		{"short secret", "registration: {shared_secret: '1234567'}", "", "registration.shared_secret (in FILE) is shorter than 8"},
		{"database", "database: {url: 'mysql://x'}", "", "database.url"},
		{"twice the same key", "log: {level: info}\nlog: {level: info}", "", "reading configuration"},
		{"no yaml", "\t- {", "", "reading configuration"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			file := write(t, test.file)
			_, err := Load(Options{File: file, Env: []string{test.env}})
			if err == nil {
				t.Fatal("accepted")
			}
			if got := strings.ReplaceAll(err.Error(), file, "FILE"); !strings.Contains(got, test.want) {
				t.Errorf("got %q, want it to contain %q", got, test.want)
			}
		})
	}
}

func TestEveryProblemIsReported(t *testing.T) {
	_, err := Load(Options{File: write(t, "nonsense: 1\nlog: {levl: x}\nserver: {name: ''}\n")})
	for _, name := range []string{"nonsense", "log.levl", "server.name"} {
		if err == nil || !strings.Contains(err.Error(), name+" (in ") {
			t.Errorf("%s is not reported in: %v", name, err)
		}
	}
	var key *KeyError
	if !errors.As(err, &key) {
		t.Errorf("no *KeyError in %T", err)
	}
}

func TestOtherVariablesAreLeftAlone(t *testing.T) {
	_, err := Load(Options{
		Env: []string{"SECURECOMM_TEST_POSTGRES=x", "SECURECOMM_HOME=x", "SECURECOMM_PORT_8008_TCP=x", "SECURECOMM_SERVICE_HOST=x",
			"SECURECOMM_SERVICE_PORT=8008", "SECURECOMM_ENV=x", "SECURECOMM_REGISTRATION_TOKEN=x"},
		Others: []string{"SECURECOMM_REGISTRATION_TOKEN"},
	})
	if err != nil {
		t.Error(err)
	}
}

func TestMisspelledVariables(t *testing.T) {
	for variable, meant := range map[string]string{
		"SECURECOMM_SERVR_NAME":              "SECURECOMM_SERVER_NAME",
		"SECURECOMM_SERVERNAME":              "SECURECOMM_SERVER_NAME",
		"SECURECOMM_SERVER_NAEM":             "SECURECOMM_SERVER_NAME",
		"SECURECOMM_REGISTRATON_ENABELD":     "SECURECOMM_REGISTRATION_ENABLED",
		"SECURECOMM_DEVV":                    "SECURECOMM_DEV",
		"SECURECOMM_LIMIT_LOGIN_PER_ADDRESS": "SECURECOMM_LIMITS_LOGIN_PER_ADDRESS",
	} {
		_, err := Load(Options{Env: []string{variable + "=true"}})
		if err == nil || !strings.Contains(err.Error(), "did you mean "+meant+"?") {
			t.Errorf("%s: %v", variable, err)
		}
	}
}

func TestFileSizeIsLimited(t *testing.T) {
	line := "#" + strings.Repeat("x", 1022) + "\n"
	text := strings.Repeat(line, MaxFileSize/len(line))
	if _, err := Load(Options{File: write(t, text)}); err != nil {
		t.Errorf("a file of MaxFileSize is refused: %v", err)
	}
	if _, err := Load(Options{File: write(t, text+"#")}); err == nil {
		t.Error("a file of MaxFileSize+1 is accepted")
	}
	if _, err := Load(Options{File: filepath.Join(t.TempDir(), "none.yaml")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file gives %v", err)
	}
}

func FuzzLoadFile(f *testing.F) {
	f.Add(Sample)
	f.Add("server: {name: x}\nlimits: {login: {per_user: 1/s}}")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > MaxFileSize {
			t.Skip()
		}
		c, err := Load(Options{File: write(t, text)})
		if err != nil {
			return
		}
		var printed strings.Builder
		if err := c.Print(&printed); err != nil {
			t.Fatal(err)
		}
		if c.Registration.SharedSecret != "" || strings.Contains(c.Database.URL.String(), redacted) {
			return
		}
		again, err := Load(Options{File: write(t, printed.String())})
		if err != nil {
			t.Fatalf("what Print wrote is refused: %v\n%s", err, printed.String())
		}
		same(t, again, c)
	})
}
