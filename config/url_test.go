package config

import "testing"

func TestBaseURL(t *testing.T) {
	for _, test := range []struct {
		name       string
		change     func(*Config)
		at         string // listened on
		base, here string
	}{
		{"started with nothing", func(*Config) {}, "127.0.0.1:8008", "http://127.0.0.1:8008", "http://127.0.0.1:8008"},
		{"another port", func(c *Config) { c.Listen.Client = "[::1]:9000" }, "[::1]:9000", "http://[::1]:9000", "http://[::1]:9000"},
		{"all addresses", func(c *Config) { c.Listen.Client = ":80" }, "[::]:80", "http://localhost:80", "http://localhost:80"},
		{"a port of the system's", func(c *Config) { c.Listen.Client = "127.0.0.1:0" }, "127.0.0.1:4711", "", "http://127.0.0.1:4711"},
		{"own TLS", func(c *Config) { c.TLS.Mode, c.TLS.Client = TLSFiles, true }, "127.0.0.1:8008", "https://127.0.0.1:8008", "https://127.0.0.1:8008"},
		{"a proxy's TLS", func(c *Config) { c.Server.Name = "one.example" }, "127.0.0.1:8008", "https://one.example", "http://127.0.0.1:8008"},
		{"own TLS for a name", func(c *Config) { c.Server.Name, c.TLS.Client = "one.example", true }, "0.0.0.0:443", "https://one.example", "https://one.example"},
		{"told", func(c *Config) { c.Server.BaseURL = "https://m.one.example" }, "127.0.0.1:8008", "https://m.one.example", "https://m.one.example"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := Default()
			test.change(c)
			if got := c.BaseURL(); got != test.base {
				t.Errorf("clients are told %q, want %q", got, test.base)
			}
			if got := c.LocalURL(test.at); got != test.here {
				t.Errorf("on this machine it is %q, want %q", got, test.here)
			}
		})
	}
	c := Dev()
	c.Server.Name, c.Listen.Client = "one.example", "127.0.0.1:9001"
	if got := c.BaseURL(); got != "http://127.0.0.1:9001" {
		t.Errorf("with dev, clients are told %q", got)
	}
}
