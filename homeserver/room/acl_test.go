package room

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

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

// Who writes a list must not hold up those who are asked about it: the largest one takes little longer than to read it.
func TestHostileACLTakesBoundedTime(t *testing.T) {
	host := id.ServerName(strings.Repeat("a", 220) + ".test")
	content := `{"allow":["*"],"deny":["` + strings.Repeat(strings.Repeat("*a", 100)+`*b","`, 300) + `x"]}`
	ev := &store.Event{Event: &event.Event{Content: json.RawMessage(content)}}
	shortest := func(f func()) time.Duration {
		best := time.Hour
		for range 3 {
			began := time.Now()
			f()
			best = min(best, time.Since(began))
		}
		return best
	}
	var a *acl
	reading := shortest(func() { a = parseACL(ev) })
	asking := shortest(func() {
		if !a.allows(host) {
			t.Error("no pattern fits, but the server is barred")
		}
	})
	if asking > 40*reading {
		t.Errorf("to ask takes %s, to read %s", asking, reading)
	}
}
