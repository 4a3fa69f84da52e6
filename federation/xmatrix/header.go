package xmatrix

import (
	"errors"
	"fmt"
	"strings"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

const (
	scheme = "X-Matrix"
	// MaxHeaderLength is the longest Authorization header that Parse reads, in bytes.
	MaxHeaderLength = 4096
	// MaxParameters is the largest number of parameters that Parse reads.
	MaxParameters = 16
	// signatureLength is the length of an ed25519 signature, in bytes.
	signatureLength = 64
)

var (
	// ErrOtherScheme says that an Authorization header is none of this scheme.
	ErrOtherScheme = errors.New("not an X-Matrix authorization")
	// ErrMalformed is wrapped by all other errors of Parse.
	ErrMalformed = errors.New("malformed X-Matrix authorization")
)

// Header is one Authorization header.
type Header struct {
	Origin id.ServerName
	// Destination is empty in requests of servers that do not send it yet.
	Destination id.ServerName
	Key         id.KeyID
	// Signature is in base64.
	Signature string
}

// String is the header in the form that the oldest servers read.
func (h Header) String() string {
	var b strings.Builder
	b.WriteString(scheme + ` origin="` + string(h.Origin) + `"`)
	if h.Destination != "" {
		b.WriteString(`,destination="` + string(h.Destination) + `"`)
	}
	b.WriteString(`,key="` + string(h.Key) + `",sig="` + h.Signature + `"`)
	return b.String()
}

// Parse reads an Authorization header. Its errors wrap ErrOtherScheme or ErrMalformed.
func Parse(header string) (Header, error) {
	if len(header) > MaxHeaderLength {
		return Header{}, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, MaxHeaderLength)
	}
	rest, ok := cutScheme(header)
	if !ok {
		return Header{}, ErrOtherScheme
	}
	known := map[string]*string{"origin": new(string), "destination": new(string), "key": new(string), "sig": new(string)}
	seen := map[string]bool{}
	for n := 0; ; n++ {
		rest = strings.TrimLeft(rest, " \t,") // empty elements count for nothing: RFC 9110, section 5.6.1
		if rest == "" {
			break
		}
		if n == MaxParameters {
			return Header{}, fmt.Errorf("%w: more than %d parameters", ErrMalformed, MaxParameters)
		}
		name, value, after, err := cutParameter(rest)
		if err != nil {
			return Header{}, err
		}
		if to := known[name]; to != nil {
			if seen[name] {
				return Header{}, fmt.Errorf("%w: %s stands there twice", ErrMalformed, name)
			}
			seen[name], *to = true, value
		}
		rest = after
	}
	h := Header{
		Origin: id.ServerName(*known["origin"]), Destination: id.ServerName(*known["destination"]),
		Key: id.KeyID(*known["key"]), Signature: *known["sig"],
	}
	return h, h.check(seen["destination"])
}

// cutScheme takes off the scheme and the spaces that must follow it.
func cutScheme(header string) (rest string, ok bool) {
	header = strings.TrimLeft(header, " \t")
	if len(header) <= len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return "", false
	}
	rest = header[len(scheme):]
	return rest, rest[0] == ' ' || rest[0] == '\t'
}

// cutParameter takes off one name=value pair and the space behind it. The name comes back in lower case.
func cutParameter(s string) (name, value, rest string, err error) {
	end := 0
	for end < len(s) && isToken(s[end]) {
		end++
	}
	name = strings.ToLower(s[:end])
	rest = strings.TrimLeft(s[end:], " \t")
	if name == "" || rest == "" || rest[0] != '=' {
		return "", "", "", fmt.Errorf("%w: not a name and a value", ErrMalformed)
	}
	rest = strings.TrimLeft(rest[1:], " \t")
	if rest != "" && rest[0] == '"' {
		value, rest, err = cutQuoted(rest[1:])
	} else {
		end = 0
		for end < len(rest) && isBare(rest[end]) {
			end++
		}
		value, rest = rest[:end], rest[end:]
	}
	if err != nil {
		return "", "", "", err
	}
	rest = strings.TrimLeft(rest, " \t")
	if rest != "" && rest[0] != ',' {
		return "", "", "", fmt.Errorf("%w: no comma behind the value of a parameter", ErrMalformed)
	}
	return name, value, rest, nil
}

// cutQuoted reads a quoted string from behind its opening quote (RFC 9110, section 5.6.4).
func cutQuoted(s string) (value, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '"' {
			return b.String(), s[i+1:], nil
		}
		if c == '\\' {
			if i++; i == len(s) {
				break
			}
			c = s[i]
		}
		if c < ' ' && c != '\t' || c == 0x7f {
			return "", "", fmt.Errorf("%w: a control character in a quoted value", ErrMalformed)
		}
		b.WriteByte(c)
	}
	return "", "", fmt.Errorf("%w: a quoted value without an end", ErrMalformed)
}

func isToken(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// isBare allows in values without quotes, besides tokens, what names of servers and keys and base64
// need: older servers leave the quotes away.
func isBare(c byte) bool { return isToken(c) || strings.IndexByte(":[]/=", c) >= 0 }

// check holds the values against the grammar of what they are.
func (h Header) check(withDestination bool) error {
	if _, err := id.ParseServerName(string(h.Origin)); err != nil {
		return fmt.Errorf("%w: origin: %w", ErrMalformed, err)
	}
	if withDestination {
		if _, err := id.ParseServerName(string(h.Destination)); err != nil {
			return fmt.Errorf("%w: destination: %w", ErrMalformed, err)
		}
	}
	if h.Key.Algorithm() != "ed25519" || h.Key.Name() == "" || len(h.Key) > id.MaxLength {
		return fmt.Errorf("%w: the key is not an ed25519 key", ErrMalformed)
	}
	for _, c := range []byte(h.Key) {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return fmt.Errorf("%w: the name of the key", ErrMalformed)
		}
	}
	if s, err := sign.DecodeBase64(h.Signature); err != nil || len(s) != signatureLength {
		return fmt.Errorf("%w: the signature is not base64 of %d bytes", ErrMalformed, signatureLength)
	}
	return nil
}
