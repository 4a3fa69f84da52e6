package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// carrier answers requests without a network, so that synctest's clock can run.
type carrier func(*http.Request) (status int, body string)

func (c carrier) RoundTrip(req *http.Request) (*http.Response, error) {
	status, body := c(req)
	if status == 0 {
		return nil, fmt.Errorf("dialling: %w", io.ErrUnexpectedEOF)
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
}

func clientOf(c carrier) *Client {
	return &Client{Base: "https://hs.test", Token: "secret", HTTP: &http.Client{Transport: c}}
}

func TestErrorsAreTyped(t *testing.T) {
	c := clientOf(func(*http.Request) (int, string) {
		return 403, `{"errcode":"M_FORBIDDEN","error":"not\u001b[31m\u202e\u2028 you"}`
	})
	_, err := c.JoinedRooms(t.Context())
	var refused *Error
	if !errors.As(err, &refused) {
		t.Fatalf("got %v", err)
	}
	if refused.Status != 403 || refused.Code != "M_FORBIDDEN" || refused.Message != "not[31m you" {
		t.Errorf("got %+v", refused)
	}
	c = clientOf(func(*http.Request) (int, string) { return 500, "<html>" })
	if _, err = c.JoinedRooms(t.Context()); !errors.As(err, &refused) || refused.Status != 500 || refused.Code != "" {
		t.Errorf("got %v", err)
	}
}

func TestRateLimitIsWaitedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		c := clientOf(func(*http.Request) (int, string) {
			if calls++; calls == 1 {
				return 429, `{"errcode":"M_LIMIT_EXCEEDED","error":"slow","retry_after_ms":1500}`
			}
			return 200, `{"room_id":"!r"}`
		})
		start := time.Now()
		room, err := c.CreateRoom(t.Context(), NewRoom{})
		if err != nil || room != "!r" {
			t.Fatalf("got %q, %v", room, err)
		}
		if waited := time.Since(start); waited != 1500*time.Millisecond {
			t.Errorf("waited %v", waited)
		}
	})
}

func TestRateLimitIsNotWaitedOutForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clientOf(func(*http.Request) (int, string) { return 429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":50000}` })
		start := time.Now()
		_, err := c.CreateRoom(t.Context(), NewRoom{})
		var refused *Error
		if !errors.As(err, &refused) || refused.Status != 429 {
			t.Fatalf("got %v", err)
		}
		if waited := time.Since(start); waited > maxRateWait {
			t.Errorf("waited %v", waited)
		}
	})
}

func TestFailuresDoNotRepeatTheQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clientOf(func(*http.Request) (int, string) { return 0, "" })
		_, err := c.Sync(t.Context(), SyncRequest{Filter: json.RawMessage(`{"room":{}}`)})
		if err == nil || !Unreachable(err) || strings.Contains(err.Error(), "filter") || !strings.Contains(err.Error(), "https://hs.test/_matrix/client/v3/sync") {
			t.Errorf("got %v", err)
		}
	})
}

func TestOnlyRepeatableCallsAreRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		c := clientOf(func(*http.Request) (int, string) { calls++; return 0, "" })
		if _, err := c.Send(t.Context(), "!r", "m.room.message", "txn", map[string]string{}); !Unreachable(err) || calls != attempts {
			t.Errorf("PUT: %d calls, %v", calls, err)
		}
		calls = 0
		if _, err := c.CreateRoom(t.Context(), NewRoom{}); !Unreachable(err) || calls != 1 {
			t.Errorf("POST: %d calls, %v", calls, err)
		}
	})
}

func TestAnswersAreBounded(t *testing.T) {
	size := maxErrorBody
	c := clientOf(func(*http.Request) (int, string) { return 200, strings.Repeat("x", size) })
	data, err := c.Download(t.Context(), "mxc://hs.test/m", int64(size))
	if err != nil || len(data) != size {
		t.Fatalf("at the limit: %d bytes, %v", len(data), err)
	}
	if _, err = c.Download(t.Context(), "mxc://hs.test/m", int64(size)-1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
}

func TestPathsAreEscaped(t *testing.T) {
	var seen string
	c := clientOf(func(req *http.Request) (int, string) { seen = req.URL.EscapedPath(); return 200, `{}` })
	if err := c.Leave(t.Context(), "!a/../b?c:h", ""); err != nil {
		t.Fatal(err)
	}
	if seen != "/_matrix/client/v3/rooms/%21a%2F..%2Fb%3Fc:h/leave" {
		t.Errorf("asked %s", seen)
	}
}

func TestRegisterDoesTheStages(t *testing.T) {
	var bodies []map[string]any
	c := clientOf(func(req *http.Request) (int, string) {
		var body map[string]any
		if err := json.NewDecoder(req.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		bodies = append(bodies, body)
		if req.Header.Get("Authorization") != "" {
			t.Error("a registration carries a token")
		}
		if body["auth"] == nil {
			return 401, `{"session":"s","flows":[{"stages":["m.login.sso"]},{"stages":["m.login.registration_token","m.login.dummy"]}]}`
		}
		if body["auth"].(map[string]any)["type"] == "m.login.registration_token" {
			return 401, `{"session":"s","completed":["m.login.registration_token"],"flows":[{"stages":["m.login.registration_token","m.login.dummy"]}]}`
		}
		if body["refresh_token"] != true {
			t.Error("it does not ask for a refresh token")
		}
		return 200, `{"user_id":"@a:h","device_id":"D","access_token":"T","refresh_token":"R"}`
	})
	got, err := c.Register(t.Context(), "a", "pw", "tok", "")
	if err != nil || got != (Session{"@a:h", "D", "T", "R"}) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if auth := bodies[1]["auth"].(map[string]any); auth["token"] != "tok" || auth["session"] != "s" {
		t.Errorf("the token stage was %v", auth)
	}
	var cannot *StagesError
	if _, err := c.Register(t.Context(), "a", "pw", "", ""); !errors.As(err, &cannot) {
		t.Errorf("without the token: %v", err)
	}
}

// TestTokensAreRenewed has an access token expire under several calls at once: it is renewed once, the new tokens are kept
// before they are used, and a session that can't be renewed has ended.
func TestTokensAreRenewed(t *testing.T) {
	var lock sync.Mutex
	valid, refresh, refreshes, down := "t1", "r0", 0, false
	c := clientOf(func(req *http.Request) (int, string) {
		lock.Lock()
		defer lock.Unlock()
		if req.URL.Path != "/_matrix/client/v3/refresh" {
			if req.Header.Get("Authorization") == "Bearer "+valid {
				return 200, `{"user_id":"@a:h"}`
			}
			return 401, `{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true}`
		}
		if down {
			return 500, ``
		}
		var body struct {
			Refresh string `json:"refresh_token"`
		}
		if err := json.NewDecoder(req.Body).Decode(&body); err != nil || body.Refresh != refresh || req.Header.Get("Authorization") != "" {
			return 401, `{"errcode":"M_UNKNOWN_TOKEN"}`
		}
		refreshes++
		refresh = fmt.Sprint("r", refreshes)
		return 200, fmt.Sprintf(`{"access_token":%q,"refresh_token":%q}`, valid, refresh)
	})
	var kept []string
	c.Token, c.Refresh = "t0", "r0"
	c.Renewed = func(token, refresh string) error { kept = append(kept, token, refresh); return nil }
	var calls sync.WaitGroup
	for range 5 {
		calls.Go(func() {
			if _, err := c.WhoAmI(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if refreshes != 1 || fmt.Sprint(kept) != "[t1 r1]" {
		t.Errorf("renewed %d times, kept %v", refreshes, kept)
	}
	valid, down = "t2", true
	if _, err := c.WhoAmI(t.Context()); !Temporary(err) {
		t.Errorf("while the server is down: %v", err)
	}
	full := errors.New("disk full")
	down, c.Renewed = false, func(string, string) error { return full }
	if _, err := c.WhoAmI(t.Context()); !errors.Is(err, full) || c.Token != "t1" {
		t.Errorf("tokens that can't be kept: %v, and %s is used", err, c.Token)
	}
	refresh = "another"
	var refused *Error
	if _, err := c.WhoAmI(t.Context()); !errors.As(err, &refused) || refused.Code != "M_UNKNOWN_TOKEN" {
		t.Errorf("after the end of the session: %v", err)
	}
	c.Refresh = ""
	if _, err := c.WhoAmI(t.Context()); !errors.As(err, &refused) || refused.Code != "M_UNKNOWN_TOKEN" {
		t.Errorf("without a refresh token: %v", err)
	}
}

// TestTokenIsPreferred: an administrator's token must not be lost where everybody may register.
func TestTokenIsPreferred(t *testing.T) {
	needed := AuthNeeded{Flows: []Flow{{[]string{"m.login.dummy"}}, {[]string{"m.login.registration_token"}}}}
	for _, test := range []struct {
		able []string
		want string
	}{
		{[]string{"m.login.registration_token", "m.login.dummy"}, "m.login.registration_token"},
		{[]string{"m.login.dummy"}, "m.login.dummy"},
		{[]string{"m.login.password", "m.login.dummy"}, "m.login.dummy"},
		{[]string{"m.login.password"}, ""},
	} {
		if got, ok := needed.Next(test.able); got != test.want || ok != (test.want != "") {
			t.Errorf("with %v: %q, %v", test.able, got, ok)
		}
	}
}

func TestMalformedEventsAreLeftOut(t *testing.T) {
	var es Events
	if err := json.Unmarshal([]byte(`[{"type":5},{"type":"m.ok","content":{"a":1}},"x",{}]`), &es); err != nil {
		t.Fatal(err)
	}
	if len(es) != 1 || es[0].Type != "m.ok" || !bytes.Contains(es[0].Raw, []byte(`"a":1`)) {
		t.Errorf("got %v", es)
	}
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var since []string
		c := clientOf(func(req *http.Request) (int, string) {
			since = append(since, req.URL.Query().Get("since"))
			switch len(since) {
			case 1:
				return 200, `{"next_batch":"s1"}`
			case 2, 3:
				return 500, ``
			case 4:
				return 200, `{"next_batch":"s2"}`
			}
			return 401, `{"errcode":"M_UNKNOWN_TOKEN"}`
		})
		var got []string
		outages := 0
		err := c.Follow(t.Context(), SyncRequest{Since: "s0"}, func(a *SyncAnswer) error {
			got = append(got, a.Next)
			return nil
		}, func(error) { outages++ })
		var refused *Error
		if !errors.As(err, &refused) || refused.Code != "M_UNKNOWN_TOKEN" {
			t.Errorf("ended with %v", err)
		}
		if fmt.Sprint(got) != "[s1 s2]" || fmt.Sprint(since) != "[s0 s1 s1 s1 s2]" || outages != 2 {
			t.Errorf("handled %v, asked since %v, %d outages", got, since, outages)
		}
	})
}

func TestFollowDoesNotAdvancePastAFailure(t *testing.T) {
	full := errors.New("disk full")
	calls := 0
	c := clientOf(func(*http.Request) (int, string) { calls++; return 200, `{"next_batch":"s1"}` })
	err := c.Follow(context.Background(), SyncRequest{}, func(*SyncAnswer) error { return full }, nil)
	if !errors.Is(err, full) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func TestDiscovery(t *testing.T) {
	versions := `{"versions":["v1.11"]}`
	for _, c := range []struct {
		what, wellKnown string
		status          int
		base            string
	}{
		{"named", `{"m.homeserver":{"base_url":"https://matrix.hs.test/"}}`, 200, "https://matrix.hs.test"},
		{"no document", ``, 404, "https://hs.test:1234"},
		{"nothing listens", ``, 0, "https://hs.test:1234"},
		{"malformed", `{`, 200, ""},
		{"no URL", `{}`, 200, ""},
		{"plain HTTP", `{"m.homeserver":{"base_url":"http://matrix.hs.test"}}`, 200, ""},
		{"too large", `{"m.homeserver":{"base_url":"https://m"}}` + strings.Repeat(" ", maxWellKnown), 200, ""},
		{"broken", ``, 500, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			http := &http.Client{Transport: carrier(func(req *http.Request) (int, string) {
				if req.URL.Path == "/.well-known/matrix/client" {
					return c.status, c.wellKnown
				}
				return 200, versions
			})}
			base, err := Discover(t.Context(), http, "hs.test:1234")
			if base != c.base || (err == nil) != (c.base != "") {
				t.Errorf("got %q, %v", base, err)
			}
		})
	}
}

func TestParseMXC(t *testing.T) {
	if server, media, err := ParseMXC("mxc://h:8448/abc_-1"); err != nil || server != "h:8448" || media != "abc_-1" {
		t.Errorf("got %q %q %v", server, media, err)
	}
	for _, bad := range []string{"", "mxc://", "mxc://h", "mxc://h/", "mxc://h/a/b", "mxc://h/../x", "https://h/a", "mxc://h/a?b"} {
		if _, _, err := ParseMXC(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func FuzzParseMXC(f *testing.F) {
	f.Add("mxc://example.org/abc")
	f.Add("mxc://[::1]:8448/a")
	f.Fuzz(func(t *testing.T, uri string) {
		server, media, err := ParseMXC(uri)
		if err == nil && "mxc://"+string(server)+"/"+media != uri {
			t.Errorf("%q falls into %q and %q", uri, server, media)
		}
	})
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte(`[{"type":"m.room.message","sender":"@a:h","content":{}},5]`))
	f.Add([]byte(`[{"type":"m","state_key":null,"unsigned":{"redacted_because":{}}}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var all []json.RawMessage
		var es Events
		if err := json.Unmarshal(data, &es); err != nil {
			return
		}
		if err := json.Unmarshal(data, &all); err != nil || len(es) > len(all) {
			t.Fatalf("%d events of %d, %v", len(es), len(all), err)
		}
		for _, e := range es {
			if e.Type == "" || len(e.Raw) == 0 {
				t.Errorf("%+v", e)
			}
		}
	})
}
