package id

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxLength is the length in bytes that no user, room, event or alias name may exceed, sigil and server included.
const MaxLength = 255

// ErrInvalid is wrapped by every parse error of this package.
var ErrInvalid = errors.New("invalid identifier")

type (
	// UserID is "@localpart:server".
	UserID string
	// RoomID is "!opaque:server", or "!hash" without a server from room version 12 on.
	RoomID string
	// EventID is "$opaque:server" in room versions 1 and 2, "$hash" afterwards.
	EventID string
	// RoomAlias is "#name:server".
	RoomAlias string
	// DeviceID is opaque to us; clients may choose it.
	DeviceID string
	// KeyID is "algorithm:identifier", such as "ed25519:a1".
	KeyID string
	// RoomVersion names a room version, such as "12".
	RoomVersion string
	// ServerName is "host" or "host:port"; the host may be an IPv4 address or a bracketed IPv6 address.
	ServerName string
)

// Localpart is what stands between the sigil and the first colon.
func (u UserID) Localpart() string { return localpart(string(u)) }

// Server is what stands behind the first colon; empty if there is none.
func (u UserID) Server() ServerName { return server(string(u)) }

// Server is what stands behind the first colon; empty for rooms of version 12 and later.
func (r RoomID) Server() ServerName { return server(string(r)) }

// Localpart is what stands between the sigil and the first colon.
func (a RoomAlias) Localpart() string { return localpart(string(a)) }

// Server is what stands behind the first colon.
func (a RoomAlias) Server() ServerName { return server(string(a)) }

// Server is the server of an event ID of room versions 1 and 2; empty for later ones.
func (e EventID) Server() ServerName { return server(string(e)) }

// Algorithm is what stands before the colon.
func (k KeyID) Algorithm() string {
	algorithm, _, _ := strings.Cut(string(k), ":")
	return algorithm
}

// Name is what stands behind the colon.
func (k KeyID) Name() string {
	_, name, _ := strings.Cut(string(k), ":")
	return name
}

// ParseUserID accepts every user ID that may occur in existing rooms, which includes the historical
// ones: any printable localpart, even an empty one.
func ParseUserID(s string) (UserID, error) {
	if err := checkSigil(s, '@', "user ID"); err != nil {
		return "", err
	}
	if _, err := ParseServerName(string(server(s))); err != nil {
		return "", fmt.Errorf("user ID: %w", err)
	}
	return UserID(s), nil
}

// NewUserID makes the ID of a user to be created here: the localpart must keep to today's grammar
// (a-z, 0-9 and . _ = - / +).
func NewUserID(localpart string, server ServerName) (UserID, error) {
	if localpart == "" {
		return "", fmt.Errorf("%w: the user name is empty", ErrInvalid)
	}
	for _, c := range []byte(localpart) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("._=-/+", rune(c)) {
			return "", fmt.Errorf("%w: user names may have only a-z, 0-9 and . _ = - / +", ErrInvalid)
		}
	}
	u := "@" + localpart + ":" + string(server)
	if len(u) > MaxLength {
		return "", fmt.Errorf("%w: the user ID would be longer than %d bytes", ErrInvalid, MaxLength)
	}
	return UserID(u), nil
}

// ParseRoomID accepts the IDs of all room versions.
func ParseRoomID(s string) (RoomID, error) {
	if len(s) < 2 || s[0] != '!' || len(s) > MaxLength || !printable(s) {
		return "", fmt.Errorf("%w: a room ID is \"!\" and at most %d bytes", ErrInvalid, MaxLength-1)
	}
	if strings.IndexByte(s, ':') < 0 {
		return RoomID(s), nil
	}
	if _, err := ParseServerName(string(server(s))); err != nil {
		return "", fmt.Errorf("room ID: %w", err)
	}
	return RoomID(s), nil
}

// ParseEventID accepts the IDs of all room versions.
func ParseEventID(s string) (EventID, error) {
	if len(s) < 2 || s[0] != '$' || len(s) > MaxLength || !printable(s) {
		return "", fmt.Errorf("%w: an event ID is \"$\" and at most %d bytes", ErrInvalid, MaxLength-1)
	}
	return EventID(s), nil
}

// ParseRoomAlias checks a room alias.
func ParseRoomAlias(s string) (RoomAlias, error) {
	if err := checkSigil(s, '#', "room alias"); err != nil {
		return "", err
	}
	if localpart(s) == "" {
		return "", fmt.Errorf("%w: the room alias has no name", ErrInvalid)
	}
	if _, err := ParseServerName(string(server(s))); err != nil {
		return "", fmt.Errorf("room alias: %w", err)
	}
	return RoomAlias(s), nil
}

func checkSigil(s string, sigil byte, what string) error {
	switch {
	case s == "" || s[0] != sigil:
		return fmt.Errorf("%w: a %s begins with %q", ErrInvalid, what, sigil)
	case len(s) > MaxLength:
		return fmt.Errorf("%w: a %s has at most %d bytes", ErrInvalid, what, MaxLength)
	case strings.IndexByte(s, ':') < 0:
		return fmt.Errorf("%w: a %s needs a server name behind a colon", ErrInvalid, what)
	case !printable(s):
		return fmt.Errorf("%w: a %s may have no control characters", ErrInvalid, what)
	}
	return nil
}

func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == 0x7f {
			return false
		}
	}
	return true
}

func localpart(s string) string {
	if s == "" {
		return ""
	}
	local, _, _ := strings.Cut(s[1:], ":")
	return local
}

func server(s string) ServerName {
	if i := strings.IndexByte(s, ':'); i >= 0 {
		return ServerName(s[i+1:])
	}
	return ""
}
