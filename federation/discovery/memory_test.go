package discovery

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

func TestWellKnownLifetime(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		cacheControl, expires string
		want                  time.Duration
	}{
		{"", "", 24 * time.Hour},
		{"max-age=7200", "", 2 * time.Hour},
		{`public, Max-Age="7200"`, "", 2 * time.Hour},
		{"max-age=1", "", time.Hour},
		{"max-age=999999999", "", 48 * time.Hour},
		{"max-age=99999999999999999999", "", 24 * time.Hour},
		{"max-age=-1", "", 24 * time.Hour},
		{"no-store", "", time.Hour},
		{"max-age=7200, no-cache", "", time.Hour},
		{"", now.Add(3 * time.Hour).Format(http.TimeFormat), 3 * time.Hour},
		{"", now.Add(-time.Hour).Format(http.TimeFormat), time.Hour},
		{"", "0", time.Hour},
		{"max-age=7200", now.Add(3 * time.Hour).Format(http.TimeFormat), 2 * time.Hour},
	} {
		h := http.Header{}
		if c.cacheControl != "" {
			h.Set("Cache-Control", c.cacheControl)
		}
		if c.expires != "" {
			h.Set("Expires", c.expires)
		}
		if got := wellKnownLifetime(h, now); got != c.want {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}

func TestFailureLifetimeDoublesUpToAnHour(t *testing.T) {
	for n, want := range map[int]time.Duration{
		1: time.Minute, 2: 2 * time.Minute, 6: 32 * time.Minute, 7: time.Hour, 8: time.Hour, 1 << 30: time.Hour,
	} {
		if got := failureLifetime(n); got != want {
			t.Errorf("failure %d is remembered for %v", n, got)
		}
	}
}

func TestRecallUntilStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Resolver{}
		r.remember("a", answer{lifetime: time.Minute, failures: 3})
		time.Sleep(time.Minute - 1)
		if _, ok := r.recall("a"); !ok {
			t.Error("forgotten too early")
		}
		time.Sleep(1)
		if _, ok := r.recall("a"); ok {
			t.Error("recalled when stale")
		}
		if r.failures("a") != 3 {
			t.Error("the count of failures is lost")
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	r := &Resolver{}
	for i := range maxKnown + 1 {
		r.remember(id.ServerName(fmt.Sprint("h", i)), answer{lifetime: time.Hour})
	}
	if len(r.known) != maxKnown {
		t.Errorf("%d answers are remembered", len(r.known))
	}
}

func FuzzWellKnown(f *testing.F) {
	f.Add([]byte(`{"m.server":"delegated.example.com:1234"}`))
	f.Add([]byte(`{"m.server":"[::1]"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		name, err := parseWellKnown(body)
		if err != nil {
			return
		}
		if _, err := id.ParseServerName(string(name)); err != nil {
			t.Errorf("%q gave the server name %q", body, name)
		}
	})
}
