package config

import (
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Config is everything that can be configured. Sample says what each key means; the tag is its name there.
type Config struct {
	Dev          bool         `key:"dev"`
	Server       Server       `key:"server"`
	Listen       Listen       `key:"listen"`
	TLS          TLS          `key:"tls"`
	WellKnown    WellKnown    `key:"well_known"`
	Database     Database     `key:"database"`
	Federation   Federation   `key:"federation"`
	Registration Registration `key:"registration"`
	Password     Password     `key:"password"`
	Session      Session      `key:"session"`
	Rooms        Rooms        `key:"rooms"`
	Limits       Limits       `key:"limits"`
	Media        Media        `key:"media"`
	Log          Log          `key:"log"`
}

// Server names the server and says where it keeps what is its own.
type Server struct {
	Name         id.ServerName `key:"name"`
	DataDir      string        `key:"data_dir"`
	BaseURL      string        `key:"base_url"`
	DrainTimeout time.Duration `key:"drain_timeout"`
	OldKeys      []OldKey      `key:"old_keys"`
}

// Listen holds the addresses that are served. An empty one is not.
type Listen struct {
	Client          string         `key:"client"`
	Federation      string         `key:"federation"`
	ACME            string         `key:"acme"`
	Metrics         string         `key:"metrics"`
	MetricsNetworks []netip.Prefix `key:"metrics_networks"`
	TrustedProxies  []netip.Prefix `key:"trusted_proxies"`
}

// The values of TLS.Mode.
const (
	TLSOff   = "off"
	TLSFiles = "files"
	TLSACME  = "acme"
)

// TLS says where certificates come from. The federation listener uses them, and on request the client's.
type TLS struct {
	Mode          string   `key:"mode"`
	Client        bool     `key:"client"`
	Cert          string   `key:"cert"`
	Key           string   `key:"key"`
	ACMEEmail     string   `key:"acme_email"`
	ACMEDirectory string   `key:"acme_directory"`
	ACMEDomains   []string `key:"acme_domains"`
}

// WellKnown is what the server says of itself under /.well-known/matrix, besides Server.BaseURL.
type WellKnown struct {
	Server       string `key:"server"`
	SupportEmail string `key:"support_email"`
	SupportPage  string `key:"support_page"`
}

// Database says where the data is.
type Database struct {
	URL     DatabaseURL `key:"url"`
	Readers int         `key:"readers"`
}

// Federation says with whom and how the server speaks to others.
type Federation struct {
	Enabled         bool            `key:"enabled"`
	AllowNetworks   []netip.Prefix  `key:"allow_networks"`
	CAFiles         []string        `key:"ca_files"`
	TrustedNotaries []id.ServerName `key:"trusted_notaries"`
	AllowServers    []string        `key:"allow_servers"`
	DenyServers     []string        `key:"deny_servers"`
}

// Registration says who may make an account.
type Registration struct {
	Enabled      bool   `key:"enabled"`
	RequireToken bool   `key:"require_token"`
	SharedSecret Secret `key:"shared_secret"`
}

// Password is the policy for new passwords.
type Password struct {
	MinLength int `key:"min_length"`
}

// Session limits how long a login lasts.
type Session struct {
	AccessTokenLifetime  time.Duration `key:"access_token_lifetime"`
	RefreshTokenLifetime time.Duration `key:"refresh_token_lifetime"`
}

// Rooms says what new rooms are like.
type Rooms struct {
	DefaultVersion string `key:"default_version"`
}

// Limits are the rates that a client may call at, one class per kind of call, and those of other servers.
type Limits struct {
	Enabled      bool  `key:"enabled"`
	Login        Class `key:"login"`
	Registration Class `key:"registration"`
	Message      Class `key:"message"`
	Join         Class `key:"join"`
	Media        Class `key:"media"`
	Download     Class `key:"download"`
	Lookup       Class `key:"lookup"`
	Costly       Class `key:"costly"`
	Search       Class `key:"search"`
	Other        Class `key:"other"`
	// Federation is how often each other server may ask.
	Federation Rate `key:"federation"`
}

// Class is a pair of rates; a call has to pass both. A zero rate does not limit.
type Class struct {
	PerUser    Rate `key:"per_user"`
	PerAddress Rate `key:"per_address"`
}

// Media limits what is uploaded and what is fetched from elsewhere.
type Media struct {
	Dir       string `key:"dir"`
	MaxUpload Size   `key:"max_upload"`
	MaxPixels int    `key:"max_pixels"`
	RemoteMax Size   `key:"remote_max"`
	KeepFree  Size   `key:"keep_free"`
	// UserQuota bounds what one user has uploaded, CacheMax what is kept of other servers, previews and thumbnails; 0 is no bound.
	UserQuota Size `key:"user_quota"`
	CacheMax  Size `key:"cache_max"`
	// Unauthenticated lets those without an account download what was uploaded here.
	Unauthenticated bool `key:"unauthenticated"`
	// Previews is whether pages behind links are looked at, PreviewNetworks which private networks they may be in.
	Previews        bool           `key:"previews"`
	PreviewNetworks []netip.Prefix `key:"preview_networks"`
}

// Log says how much is logged and in which form.
type Log struct {
	Level  string `key:"level"`
	Format string `key:"format"`
}

// DatabaseURL is where the data is, with the embedded database spelled out when none was configured.
// It may hold a password: do not log it.
func (c *Config) DatabaseURL() string {
	if c.Database.URL != "" {
		return string(c.Database.URL)
	}
	return sqliteScheme + filepath.Join(c.Server.DataDir, "securecomm.db")
}

// MediaDir is the folder of uploaded and cached content.
func (c *Config) MediaDir() string {
	if c.Media.Dir != "" {
		return c.Media.Dir
	}
	return filepath.Join(c.Server.DataDir, "media")
}

// SigningKeyFile is the file of the server's signing key. Losing it means losing the server's identity.
func (c *Config) SigningKeyFile() string {
	return filepath.Join(c.Server.DataDir, "signing.key")
}

// ACMEDir is the folder in which certificates from an ACME authority are kept.
func (c *Config) ACMEDir() string {
	return filepath.Join(c.Server.DataDir, "acme")
}

// ACMEDomains are the host names that certificates are asked for.
func (c *Config) ACMEDomains() []string {
	if len(c.TLS.ACMEDomains) > 0 {
		return c.TLS.ACMEDomains
	}
	return []string{c.Server.Name.Host()}
}

// BaseURL is where clients reach the server, without a slash at its end. It is empty if that is known only when
// the server listens: a server of this machine, on a port that the system chooses.
func (c *Config) BaseURL() string {
	switch {
	case c.Server.BaseURL != "":
		return c.Server.BaseURL
	case c.local():
		return c.urlOf(c.Listen.Client)
	default:
		return "https://" + string(c.Server.Name)
	}
}

// LocalURL is where a client on this machine reaches the server, given the address that it listens on for clients.
func (c *Config) LocalURL(address string) string {
	certified := c.TLS.Client && !c.local() // for its name, not for the address
	if c.Server.BaseURL != "" || certified {
		return c.BaseURL()
	}
	return c.urlOf(address)
}

// local says whether nobody but this machine can know the server by its name.
func (c *Config) local() bool { return c.Dev || c.Server.Name.Host() == "localhost" }

// urlOf is the URL of an address to listen on; empty if the port is not known.
func (c *Config) urlOf(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "0" {
		return ""
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	scheme := "http://"
	if c.TLS.Client {
		scheme = "https://"
	}
	return scheme + net.JoinHostPort(host, port)
}
