package config

import (
	"net/netip"
	"time"
)

// Default is what applies where nothing is configured: reachable from this machine only, no federation,
// no registration.
func Default() *Config {
	return &Config{
		Server: Server{Name: "localhost", DataDir: "securecomm-data", DrainTimeout: 10 * time.Second},
		Listen: Listen{
			Client:          "127.0.0.1:8008",
			ACME:            ":80",
			MetricsNetworks: loopback(),
			TrustedProxies:  loopback(),
		},
		TLS:          TLS{Mode: TLSOff, ACMEDirectory: "https://acme-v02.api.letsencrypt.org/directory"},
		Registration: Registration{RequireToken: true},
		Password:     Password{MinLength: 8},
		Session:      Session{AccessTokenLifetime: time.Hour, RefreshTokenLifetime: 180 * 24 * time.Hour},
		Rooms:        Rooms{DefaultVersion: "12"},
		Limits: Limits{
			Enabled:      true,
			Login:        Class{PerUser: Rate{10, time.Minute}, PerAddress: Rate{30, time.Minute}},
			Registration: Class{PerAddress: Rate{10, time.Hour}},
			Message:      Class{PerUser: Rate{100, 10 * time.Second}},
			Join:         Class{PerUser: Rate{30, time.Minute}},
			Media:        Class{PerUser: Rate{60, time.Minute}, PerAddress: Rate{300, time.Minute}},
			Download:     Class{PerUser: Rate{600, time.Minute}, PerAddress: Rate{1200, time.Minute}},
			Lookup:       Class{PerAddress: Rate{300, time.Minute}},
			Costly:       Class{PerUser: Rate{200, time.Minute}, PerAddress: Rate{1200, time.Minute}},
			Search:       Class{PerUser: Rate{30, time.Minute}, PerAddress: Rate{300, time.Minute}},
			Other:        Class{PerUser: Rate{1000, time.Minute}},
			Federation:   Rate{1000, 10 * time.Second},
		},
		Media: Media{MaxUpload: 50 * MiB, MaxPixels: 32_000_000, RemoteMax: 100 * MiB, KeepFree: 512 * MiB, UserQuota: 10 << 30, CacheMax: 20 << 30, Previews: true},
		Log:   Log{Level: "info", Format: "text"},
	}
}

// Dev is Default for trying things out: this machine only, but whoever reaches it may register, nothing
// is slowed down, and the data is in a folder of its own. Federation is answered on the client's listener
// and may reach private addresses.
func Dev() *Config {
	c := Default()
	c.Dev = true
	c.Server.DataDir = ".securecomm-dev"
	c.Federation.Enabled = true
	c.Federation.AllowNetworks = []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("fc00::/7"),
	}
	c.Registration.Enabled = true
	c.Registration.RequireToken = false
	c.Limits.Enabled = false
	return c
}

func loopback() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}
