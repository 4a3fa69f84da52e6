package id

import (
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	user := func(s string) error { _, err := ParseUserID(s); return err }
	room := func(s string) error { _, err := ParseRoomID(s); return err }
	event := func(s string) error { _, err := ParseEventID(s); return err }
	alias := func(s string) error { _, err := ParseRoomAlias(s); return err }
	server := func(s string) error { _, err := ParseServerName(s); return err }
	long := strings.Repeat("a", MaxLength-len("@:h"))
	for _, c := range []struct {
		what  string
		parse func(string) error
		in    string
		ok    bool
	}{
		{"user", user, "@alice:example.org", true},
		{"user with port", user, "@alice:example.org:8448", true},
		{"historical user", user, "@Alice!:example.org", true},
		{"user at the limit", user, "@" + long + ":h", true},
		{"user over the limit", user, "@" + long + "a:h", false},
		{"user without server", user, "@alice", false},
		{"user with a control character", user, "@a\nb:h", false},
		{"user with an empty server", user, "@a:", false},
		{"room", room, "!abc:example.org", true},
		{"room of version 12", room, "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM", true},
		{"empty room", room, "!", false},
		{"room with a bad server", room, "!abc:exa mple", false},
		{"event", event, "$abc", true},
		{"event without sigil", event, "abc", false},
		{"alias", alias, "#room:example.org", true},
		{"alias without name", alias, "#:example.org", false},
		{"IPv4", server, "1.2.3.4:1234", true},
		{"IPv6", server, "[1234:5678::abcd]:5678", true},
		{"IPv6 without brackets", server, "1234:5678::abcd", false},
		{"IPv6 unclosed", server, "[::1", false},
		{"junk behind IPv6", server, "[::1]x:1", false},
		{"port zero", server, "h:0", false},
		{"port too large", server, "h:65536", false},
		{"empty port", server, "h:", false},
		{"slash", server, "h/x", false},
	} {
		t.Run(c.what, func(t *testing.T) {
			err := c.parse(c.in)
			if (err == nil) != c.ok {
				t.Errorf("%q: %v", c.in, err)
			}
			if err != nil && !errors.Is(err, ErrInvalid) {
				t.Errorf("%q: %v does not wrap ErrInvalid", c.in, err)
			}
		})
	}
}

func TestNewUserID(t *testing.T) {
	if u, err := NewUserID("a.b_c=d-e/f+1", "h:8448"); err != nil || u.Localpart() != "a.b_c=d-e/f+1" || u.Server() != "h:8448" {
		t.Errorf("got %q, %v", u, err)
	}
	for _, bad := range []string{"", "Alice", "al ice", "ä", strings.Repeat("a", 254)} {
		if u, err := NewUserID(bad, "h"); err == nil {
			t.Errorf("%q was accepted as %q", bad, u)
		}
	}
}

func FuzzServerName(f *testing.F) {
	f.Add("[::1]:80")
	f.Add("example.org:8448")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseServerName(s)
		if err != nil {
			return
		}
		whole := n.Host()
		if n.Port() != "" {
			whole += ":" + n.Port()
		}
		if whole != s {
			t.Errorf("%q falls into %q and %q", s, n.Host(), n.Port())
		}
	})
}
