package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, s := range texts {
		list[i] = netip.MustParsePrefix(s)
	}
	return list
}

func TestSampleIsTheDefaultsAndHasEveryKey(t *testing.T) {
	got, err := Load(Options{File: write(t, Sample)})
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, Default())
	sample := viper.New()
	sample.SetConfigType("yaml")
	if err := sample.ReadConfig(strings.NewReader(Sample)); err != nil {
		t.Fatal(err)
	}
	for _, k := range keysOf(Default()) {
		if !sample.InConfig(k.name) && sample.Get(k.name) == nil {
			t.Errorf("the sample lacks %s", k.name)
		}
		if !regexp.MustCompile(`^[a-z_]+(\.[a-z_]+)*$`).MatchString(k.name) {
			t.Errorf("the key %q is not well named; has a field no tag?", k.name)
		}
	}
}

func TestPrintLoadsAgain(t *testing.T) {
	c := Dev()
	c.Server.Name = "example.org"
	c.Federation.CAFiles = []string{write(t, "a certificate")}
	c.Limits.Login.PerAddress = Rate{}
	c.Media.MaxUpload = 1<<20 + 1
	c.Server.OldKeys = []OldKey{{"ed25519:old", make([]byte, 32), time.UnixMilli(1)}}
	var out strings.Builder
	if err := c.Print(&out); err != nil {
		t.Fatal(err)
	}
	got, err := Load(Options{File: write(t, out.String())})
	if err != nil {
		t.Fatalf("%v in\n%s", err, out.String())
	}
	same(t, got, c)
}

func TestSecretsAreNeverShown(t *testing.T) {
	const secret = "hunter2hunter2"
	c := Default()
	c.Registration.SharedSecret = secret
	c.Database.URL = "postgres://user:" + secret + "@db.example/name?sslmode=require&password=" + secret
	var out strings.Builder
	if err := c.Print(&out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `shared_secret: "***"`) || !strings.Contains(out.String(), "postgres://user:***@db.example/name?") {
		t.Errorf("not printed as redacted:\n%s", out.String())
	}
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(asJSON)
	fmt.Fprintf(&out, "%v %+v %#v %v", c, *c, *c, c.Database)
	slog.New(slog.NewTextHandler(&out, nil)).Info("started", "config", c.Registration, "secret", c.Registration.SharedSecret, "url", c.Database.URL)
	if strings.Contains(out.String(), secret) {
		t.Errorf("a secret is shown:\n%s", out.String())
	}
	var wrong []string
	for _, password := range []string{
		secret + "%zz", secret + "#x", "12#" + secret, "12/" + secret, "12?" + secret, "1@2#" + secret, secret + "#", "#" + secret, "#" + secret + "#", "/" + secret, "?" + secret,
	} {
		wrong = append(wrong, "postgres://user:"+password+"@host/d")
	}
	for _, password := range []string{secret + "#", "#" + secret, "12#" + secret} { // else the database is given another one
		wrong = append(wrong, "postgres://user@host/d?password="+password)
	}
	for _, url := range wrong {
		_, err = Load(Options{Env: []string{"SECURECOMM_DATABASE_URL=" + url}})
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s is repeated, or not refused: %v", url, err)
		}
	}
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	AddFlags(flags)
	if flags.Lookup("registration.shared_secret") != nil {
		t.Error("a secret can be given on the command line")
	}
	for name := range shownFlags {
		if flag := flags.Lookup(name); flag == nil || flag.Hidden {
			t.Errorf("--%s is not shown in help", name)
		}
	}
}

func TestDerivedPlaces(t *testing.T) {
	c := Default()
	c.Server.DataDir = "/data"
	c.Server.Name = "example.org:8448"
	for got, want := range map[string]string{
		c.DatabaseURL():    "sqlite:///data/securecomm.db",
		c.MediaDir():       "/data/media",
		c.SigningKeyFile(): "/data/signing.key",
		c.ACMEDir():        "/data/acme",
		c.BaseURL():        "https://example.org:8448",
		c.ACMEDomains()[0]: "example.org",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	c.Database.URL, c.Media.Dir, c.Server.BaseURL = "postgres://db/x", "/media", "https://m.example.org"
	c.TLS.ACMEDomains = []string{"m.example.org"}
	for got, want := range map[string]string{
		c.DatabaseURL(): "postgres://db/x", c.MediaDir(): "/media", c.BaseURL(): "https://m.example.org", c.ACMEDomains()[0]: "m.example.org",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
