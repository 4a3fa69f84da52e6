package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// checker collects what is wrong across keys that are each well-formed.
type checker struct {
	where    map[string]string
	problems []*KeyError
}

func (c *checker) refuse(key, problem string) {
	c.problems = append(c.problems, &KeyError{Key: key, Where: c.where[key], Problem: problem})
}

func (c *Config) check(where map[string]string) []*KeyError {
	to := &checker{where: where}
	c.checkServer(to)
	c.checkListen(to)
	c.checkTLS(to)
	c.checkFederation(to)
	c.checkLimits(to)
	to.oneOf("rooms.default_version", c.Rooms.DefaultVersion, "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12")
	to.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	to.oneOf("log.format", c.Log.Format, "text", "json")
	return to.problems
}

func (c *Config) checkServer(to *checker) {
	if c.Server.DataDir == "" {
		to.refuse("server.data_dir", "is empty; name a folder that only the server's user can read")
	}
	c.Server.BaseURL = to.httpURL("server.base_url", c.Server.BaseURL)
	c.WellKnown.SupportPage = to.httpURL("well_known.support_page", c.WellKnown.SupportPage)
	if name := c.WellKnown.Server; name != "" {
		if _, err := id.ParseServerName(name); err != nil {
			to.refuse("well_known.server", fmt.Sprintf(`is %q; write host and port, such as "matrix.example.org:443"`, name))
		}
	}
	if email := c.WellKnown.SupportEmail; email != "" && !strings.Contains(email, "@") {
		to.refuse("well_known.support_email", "is not an address; it needs an @")
	}
	if secret := c.Registration.SharedSecret; secret != "" && len(secret) < 8 {
		to.refuse("registration.shared_secret", "is shorter than 8 characters; whoever guesses it makes administrators")
	}
	if c.Database.Readers > 1024 {
		to.refuse("database.readers", "is more than 1024; 0 lets the server choose")
	}
}

func (c *Config) checkListen(to *checker) {
	if c.Listen.Client == "" {
		to.refuse("listen.client", `is empty; write an address such as "127.0.0.1:8008"`)
	}
	served := map[string]string{}
	for _, l := range []struct{ key, address string }{
		{"listen.client", c.Listen.Client}, {"listen.federation", c.Listen.Federation}, {"listen.metrics", c.Listen.Metrics},
	} {
		if !to.address(l.key, l.address) {
			continue
		}
		if other := served[l.address]; other != "" && !strings.HasSuffix(l.address, ":0") {
			to.refuse(l.key, "is the same address as "+other+"; leave it empty to serve both there")
		}
		served[l.address] = l.key
	}
	if c.TLS.Mode == TLSACME {
		to.address("listen.acme", c.Listen.ACME)
	}
}

func (c *Config) checkTLS(to *checker) {
	to.oneOf("tls.mode", c.TLS.Mode, TLSOff, TLSFiles, TLSACME)
	if c.TLS.Client && c.TLS.Mode == TLSOff {
		to.refuse("tls.client", "needs certificates; set tls.mode to files or acme")
	}
	if c.TLS.Mode == TLSFiles {
		for _, f := range []struct{ key, path string }{{"tls.cert", c.TLS.Cert}, {"tls.key", c.TLS.Key}} {
			if f.path == "" {
				to.refuse(f.key, "is empty, but tls.mode is files; name a PEM file")
			}
		}
	}
	if c.TLS.Mode == TLSACME {
		if len(c.TLS.ACMEDomains) == 0 && !publicName(c.Server.Name.Host()) {
			to.refuse("tls.acme_domains", "is empty and server.name is no public host name; name the hosts that certificates are for")
		}
		to.httpURL("tls.acme_directory", c.TLS.ACMEDirectory)
	}
}

func publicName(host string) bool {
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err != nil && strings.Contains(host, ".")
}

func (c *Config) checkFederation(to *checker) {
	if c.Federation.Enabled && !c.Dev && c.Server.Name == "localhost" {
		to.refuse("server.name", "is localhost, which no other server can reach; set it, or leave federation.enabled off")
	}
	for _, l := range []struct {
		key      string
		patterns []string
	}{
		{"federation.allow_servers", c.Federation.AllowServers}, {"federation.deny_servers", c.Federation.DenyServers},
	} {
		for _, p := range l.patterns {
			if _, err := id.ParseServerName(strings.TrimPrefix(p, "*.")); err != nil && p != "*" {
				to.refuse(l.key, fmt.Sprintf(`has the entry %q; write a host name, or "*.example.org" for all below one`, p))
			}
		}
	}
	for _, file := range c.Federation.CAFiles {
		if info, err := os.Stat(file); err != nil || info.IsDir() {
			to.refuse("federation.ca_files", fmt.Sprintf("names %q, which is no file here; write the path of a PEM file", file))
		}
	}
}

func (c *Config) checkLimits(to *checker) {
	if n := c.Password.MinLength; n < 1 || n > 128 {
		to.refuse("password.min_length", "must be from 1 to 128")
	}
	if d := c.Session.AccessTokenLifetime; d > 0 && d < time.Minute {
		to.refuse("session.access_token_lifetime", "is under a minute; clients would do little else than refresh")
	}
	for _, s := range []struct {
		key  string
		size Size
	}{{"media.max_upload", c.Media.MaxUpload}, {"media.remote_max", c.Media.RemoteMax}} {
		if s.size < 1<<10 {
			to.refuse(s.key, `is under 1KiB; write a size such as "50MiB"`)
		}
	}
	if m := c.Media; m.CacheMax > 0 && m.CacheMax/10 < m.RemoteMax {
		to.refuse("media.cache_max", "is less than ten times media.remote_max: hardly anything would be found in it again; or write 0 for no bound")
	}
	if c.Media.MaxPixels < 1 {
		to.refuse("media.max_pixels", "must be at least 1")
	}
}

func (c *checker) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		c.refuse(key, fmt.Sprintf("is %q; write one of %s", value, strings.Join(allowed, ", ")))
	}
}

// httpURL checks an optional web address and returns it without a slash at its end.
func (c *checker) httpURL(key, value string) string {
	if value == "" {
		return ""
	}
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		c.refuse(key, fmt.Sprintf(`is %q; write a web address such as "https://matrix.example.org"`, value))
	}
	return strings.TrimRight(value, "/")
}

func (c *checker) address(key, value string) bool {
	if value == "" {
		return false
	}
	host, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err == nil && host != "" && host != "localhost" {
		_, err = netip.ParseAddr(host)
	}
	if err != nil {
		c.refuse(key, fmt.Sprintf(`is %q; write an IP address and a port, such as "127.0.0.1:8008", or only the port, ":8008"`, value))
	}
	return err == nil
}
