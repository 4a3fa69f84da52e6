package config

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// MiB is 2^20 bytes.
const MiB Size = 1 << 20

const sqliteScheme = "sqlite://"

// Size is a number of bytes, written "50MiB".
type Size int64

// Largest first: String picks the first that divides, and parseSize must not take "MiB" for "B".
var sizeUnits = []struct {
	suffix string
	bytes  Size
}{
	{"GiB", 1 << 30}, {"MiB", MiB}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1}, {"", 1},
}

func parseSize(s string) (Size, error) {
	for _, unit := range sizeUnits {
		digits, ok := strings.CutSuffix(s, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/int64(unit.bytes) {
			break
		}
		return Size(n) * unit.bytes, nil
	}
	return 0, errors.New(`not a size; write a whole number and a unit, such as "50MiB" or "512KiB"`)
}

// String is the size in the largest binary unit that divides it.
func (s Size) String() string {
	for _, unit := range sizeUnits {
		if strings.HasSuffix(unit.suffix, "iB") && s >= unit.bytes && s%unit.bytes == 0 {
			return strconv.FormatInt(int64(s/unit.bytes), 10) + unit.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// Rate allows Count calls at once, and refills at Count per Per. The zero value does not limit.
type Rate struct {
	Count int
	Per   time.Duration
}

const rateOff = "off"

func parseRate(s string) (Rate, error) {
	if s == rateOff {
		return Rate{}, nil
	}
	wrong := errors.New(`not a rate; write calls and the time they refill in, such as "100/10s" or "30/1m", or "off"`)
	count, per, ok := strings.Cut(s, "/")
	n, err := strconv.Atoi(count)
	if !ok || err != nil || n < 1 || n > math.MaxInt32 {
		return Rate{}, wrong
	}
	if per != "" && (per[0] < '0' || per[0] > '9') {
		per = "1" + per // "100/s"
	}
	d, err := parseDuration(per)
	if err != nil || d <= 0 {
		return Rate{}, wrong
	}
	return Rate{Count: n, Per: d}, nil
}

// String is the form that a configuration file has.
func (r Rate) String() string {
	if r.Count == 0 {
		return rateOff
	}
	return strconv.Itoa(r.Count) + "/" + formatDuration(r.Per)
}

// parseDuration is time.ParseDuration with days, which lifetimes are often given in.
func parseDuration(s string) (time.Duration, error) {
	wrong := errors.New(`not a duration; write a number and a unit, such as "30s", "10m", "1h30m" or "7d"`)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/int64(24*time.Hour) {
			return 0, wrong
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, wrong
	}
	return d, nil
}

func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// OldKey is a key that the server signed with until it expired, written "ed25519:ID PUBLIC_KEY EXPIRED_TS" with the
// public key in base64 and milliseconds since 1970.
type OldKey struct {
	ID      id.KeyID
	Public  []byte
	Expired time.Time
}

func parseOldKey(s string) (OldKey, error) {
	wrong := errors.New(`not an old key; write "ed25519:ID PUBLIC_KEY EXPIRED_TS", as /_matrix/key/v2/server had it, and when it was replaced`)
	words := strings.Fields(s)
	if len(words) != 3 {
		return OldKey{}, wrong
	}
	keyID := id.KeyID(words[0])
	public, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(words[1], "="))
	if err != nil || len(public) != ed25519.PublicKeySize || keyID.Algorithm() != "ed25519" || keyID.Name() == "" || len(keyID) > id.MaxLength {
		return OldKey{}, wrong
	}
	expired, err := strconv.ParseInt(words[2], 10, 64)
	if err != nil || expired <= 0 {
		return OldKey{}, wrong
	}
	return OldKey{keyID, public, time.UnixMilli(expired)}, nil
}

// String is the form that a configuration file has.
func (k OldKey) String() string {
	return fmt.Sprintf("%s %s %d", k.ID, base64.RawStdEncoding.EncodeToString(k.Public), k.Expired.UnixMilli())
}

const redacted = "***"

// Secret is a text that is never shown: every way of printing it gives "***". string(s) is the way in.
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText hides the secret from encoders and from slog.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// DatabaseURL names a database, perhaps with a password, which printing hides.
type DatabaseURL string

func parseDatabaseURL(s string) (DatabaseURL, error) {
	if path, ok := strings.CutPrefix(s, sqliteScheme); ok {
		if path == "" {
			return "", errors.New(`names no file; write "sqlite:///path/to/file.db"`)
		}
		return DatabaseURL(s), nil
	}
	u, err := url.Parse(s)
	// What is special in a password ends the part of the URL that it is in, and the rest of it would be taken for a host, a
	// path or a fragment, which errors show.
	broken := err != nil || u.Fragment != "" || strings.HasSuffix(s, "#") || u.User == nil && strings.Contains(s, "@")
	if broken || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		// What was written is not repeated, nor the parser's error, which would: it may hold a password.
		return "", errors.New(`not a database; write "postgres://user:password@host/name" or "sqlite:///path/to/file.db",` +
			` and percent-encode what is special in the password`)
	}
	return DatabaseURL(s), nil
}

// String is the URL with its password hidden.
func (d DatabaseURL) String() string {
	if d == "" || strings.HasPrefix(string(d), sqliteScheme) {
		return string(d)
	}
	u, err := url.Parse(string(d))
	if err != nil {
		return redacted
	}
	out := u.Scheme + "://"
	if u.User != nil {
		out += url.User(u.User.Username()).String()
		if _, has := u.User.Password(); has {
			out += ":" + redacted
		}
		out += "@"
	}
	out += u.Host + u.EscapedPath()
	query := u.Query()
	for _, name := range []string{"password", "sslpassword"} {
		if query.Has(name) {
			query.Set(name, "hidden")
		}
	}
	if len(query) > 0 {
		out += "?" + query.Encode()
	}
	return out
}

// GoString hides the password from %#v.
func (d DatabaseURL) GoString() string { return strconv.Quote(d.String()) }

// MarshalText hides the password from encoders and from slog.
func (d DatabaseURL) MarshalText() ([]byte, error) { return []byte(d.String()), nil }
