package room

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

func TestACL(t *testing.T) {
	for _, c := range []struct {
		content string
		server  id.ServerName
		want    bool
	}{
		{`{"allow":["*"]}`, "example.org", true},
		{`{"allow":["*"],"deny":["*.evil.com","evil.com"]}`, "www.evil.com", false},
		{`{"allow":["*"],"deny":["*.evil.com","evil.com"]}`, "evil.com", false},
		{`{"allow":["*"],"deny":["*.evil.com","evil.com"]}`, "EVIL.com:8448", false},
		{`{"allow":["*"],"deny":["*.evil.com"]}`, "evil.com", true},
		{`{"allow":["*.example.org"]}`, "a.example.org:1234", true},
		{`{"allow":["*.example.org"]}`, "example.com", false},
		{`{"allow":["ex?mple.org"]}`, "example.org", true},
		{`{"allow":["ex?mple.org"]}`, "exmple.org", false},
		{`{"allow":["*"],"allow_ip_literals":false}`, "1.2.3.4:80", false},
		{`{"allow":["*"],"allow_ip_literals":false}`, "[::1]", false},
		{`{"allow":["*"],"allow_ip_literals":true}`, "[::1]", true},
		{`{"allow":["*"],"allow_ip_literals":"no"}`, "1.2.3.4", true},
		{`{}`, "example.org", false},
		{`{"allow":"*"}`, "example.org", false},
		{`{"allow":[7,"*"],"deny":{"a":1}}`, "example.org", true},
		{`[]`, "example.org", false},
	} {
		a := parseACL(&store.Event{Event: &event.Event{Content: json.RawMessage(c.content)}})
		if got := a.allows(c.server); got != c.want {
			t.Errorf("%s: %s: got %t", c.content, c.server, got)
		}
	}
}

// FuzzGlob: a pattern without wildcards fits itself only, and what a star stands for does not matter.
func FuzzGlob(f *testing.F) {
	f.Add("a*b?c", "axxbyc")
	f.Add("**a", "a")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if !strings.ContainsAny(pattern, "*?") && globMatches(pattern, name) != (pattern == name) {
			t.Errorf("%q and %q", pattern, name)
		}
		if globMatches(pattern, name) && !globMatches("*"+pattern+"*", "x"+name+"y") {
			t.Errorf("%q fits %q, but not with stars around it", pattern, name)
		}
	})
}
