package clientapi

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

var update = flag.Bool("update", false, "rewrite the golden list of routes")

func TestRoutesGolden(t *testing.T) {
	const golden = "testdata/routes.golden"
	var lines []string
	for _, r := range (&API{}).routes() {
		for _, path := range r.paths() {
			lines = append(lines, fmt.Sprintf("%-6s %s %s\n", r.method, path, r.auth))
		}
	}
	slices.Sort(lines)
	if doubled := len(lines) - len(slices.Compact(slices.Clone(lines))); doubled > 0 {
		t.Errorf("%d routes are there twice", doubled)
	}
	got := strings.Join(lines, "")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the routes differ from %s; if that is meant, run go test ./clientapi -run Golden -update\n%s", golden, got)
	}
}

// tester is an API on a store of its own, and what a test needs to call it.
type tester struct {
	*testing.T
	api  *API
	echo *echo.Echo
}

func newTester(t *testing.T, db *store.DB, change func(*API)) *tester {
	a := &API{
		Server: "example.org", Store: db, Log: slog.New(slog.DiscardHandler),
		Discovery: Discovery{BaseURL: "https://matrix.example.org"},
		Account: account.New(account.Options{
			DB: db, Server: "example.org", Log: slog.New(slog.DiscardHandler),
			Registration: account.Registration{Open: true, SharedSecret: "hush"},
		}),
	}
	if change != nil {
		change(a)
	}
	e := echo.New()
	a.Register(e)
	return &tester{t, a, e}
}

func each(t *testing.T, test func(*tester)) {
	storetest.Each(t, func(t *testing.T, db *store.DB) { test(newTester(t, db, nil)) })
}

// answer is the status and the body of an answer; the body's members by their names.
type answer struct {
	code   int
	body   map[string]any
	header http.Header
}

// call makes a request with a token, unless it is empty. A body that is no string is sent as JSON.
func (t *tester) call(method, path, token string, body any) answer {
	t.Helper()
	var reader io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(body)
	default:
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		reader = bytes.NewReader(raw)
	}
	r := httptest.NewRequest(method, path, reader)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	t.echo.ServeHTTP(w, r)
	a := answer{code: w.Code, header: w.Header()}
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &a.body); err != nil {
			t.Fatalf("%s %s: %s: %v", method, path, w.Body, err)
		}
	}
	return a
}

// want fails unless an answer has a status and, if given, an error code.
func (t *tester) want(a answer, code int, errcode string) answer {
	t.Helper()
	got, _ := a.body["errcode"].(string)
	if a.code != code || got != errcode {
		t.Errorf("got %d %v, want %d %s", a.code, a.body, code, errcode)
	}
	return a
}

func (t *tester) register(name string) (userID, token string) {
	t.Helper()
	a := t.want(t.call(POST, "/_matrix/client/v3/register", "", map[string]any{
		"username": name, "password": "superuser", "auth": map[string]string{"type": "m.login.dummy"},
	}), 200, "")
	return a.body["user_id"].(string), a.body["access_token"].(string)
}

func TestEdges(t *testing.T) {
	test := newTester(t, storetest.Open(t, t.TempDir()+"/test.db"), nil)
	_, token := test.register("alice")
	const whoami = "/_matrix/client/v3/account/whoami"
	test.want(test.call(GET, "/_matrix/unknown", "", nil), 404, "M_UNRECOGNIZED")
	test.want(test.call(GET, "/_matrix/client/v1/unknown", "", nil), 404, "M_UNRECOGNIZED")
	test.want(test.call(PUT, "/_matrix/client/v3/login", "", `{}`), 405, "M_UNRECOGNIZED")
	test.want(test.call(GET, whoami, "", nil), 401, "M_MISSING_TOKEN")
	test.want(test.call(GET, whoami, "x", nil), 401, "M_UNKNOWN_TOKEN")
	test.want(test.call(GET, whoami, token, nil), 200, "")
	test.want(test.call(GET, "/_matrix/client/r0/account/whoami?access_token="+token, "", nil), 200, "")
	test.want(test.call(POST, "/_matrix/client/v3/login", "", `{"type":"a`+"\x81"+`"}`), 400, "M_NOT_JSON")
	test.want(test.call(POST, "/_matrix/client/v3/login", "", `{"type":`), 400, "M_NOT_JSON")
	test.want(test.call(POST, "/_matrix/client/v3/login", "", `[]`), 400, "M_BAD_JSON")
	test.want(test.call(POST, "/_matrix/client/v3/login", "", `null`), 400, "M_BAD_JSON")
	test.want(test.call(POST, "/_matrix/client/v3/login", "", `{"type":1}`), 400, "M_BAD_JSON")
	test.want(test.call(POST, "/_matrix/client/v3/keys/query", token, `{"x":"`+strings.Repeat("x", maxBody)+`"}`), 413, "M_TOO_LARGE")

	if head := test.call(http.MethodHead, whoami, token, nil); head.code != 200 || head.body != nil || head.header.Get("Content-Length") == "0" {
		t.Errorf("HEAD: %d %v, %v", head.code, head.body, head.header)
	}
	options := test.call(http.MethodOptions, whoami, "", nil)
	if options.code != 204 || options.header.Get("Access-Control-Allow-Origin") != "*" || options.header.Get("Access-Control-Allow-Headers") == "" {
		t.Errorf("OPTIONS: %d, %v", options.code, options.header)
	}
	if test.call(GET, "/_matrix/client/unknown", "", nil).header.Get("Access-Control-Allow-Origin") != "*" {
		t.Error("an error has no cross-origin header")
	}
}

func TestBodyWithoutLength(t *testing.T) {
	test := newTester(t, storetest.Open(t, t.TempDir()+"/test.db"), nil)
	for size, want := range map[int]int{maxSmallBody: 400, maxSmallBody + 1: 413} {
		body := `{"x":"` + strings.Repeat("x", size-len(`{"x":""}`)) + `"}`
		r := httptest.NewRequest(POST, "/_matrix/client/v3/login", io.MultiReader(strings.NewReader(body)))
		r.ContentLength = -1
		w := httptest.NewRecorder()
		test.echo.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%d bytes: %d %s", size, w.Code, w.Body)
		}
	}
}

func TestPanicIsAnswered(t *testing.T) {
	a := &API{Log: slog.New(slog.DiscardHandler), limiter: newLimiter(Limits{})}
	e := echo.New()
	e.HTTPErrorHandler = a.answerError
	e.GET("/boom", a.serve(route{GET, "/boom", public, none, func(*call) (any, error) { panic("boom") }}))
	test := &tester{t, a, e}
	test.want(test.call(GET, "/boom", "", nil), 500, "M_UNKNOWN")
}

// from is a call from an address.
func from(address string) *call {
	c := &call{Context: echo.New().NewContext(httptest.NewRequest(GET, "/", nil), nil)}
	c.Request().RemoteAddr = net.JoinHostPort(address, "1")
	return c
}

func TestLoginLimits(t *testing.T) {
	l := newLimiter(Limits{Enabled: true, Login: Class{PerUser: Rate{2, time.Hour}}})
	for i := range 3 {
		if err := l.checkLogin(from("1.2.3.4"), "@alice:h"); (err != nil) != (i == 2) {
			t.Errorf("attempt %d from one address: %v", i, err)
		}
	}
	if err := l.checkLogin(from("1.2.3.5"), "@alice:h"); err != nil {
		t.Errorf("who fails from one address locks the user out at another: %v", err)
	}
	if err := l.check(limitConfirm, &call{Context: from("1.2.3.4").Context, Requester: account.Requester{User: "@alice:h"}}); err != nil {
		t.Errorf("failed logins keep a user from giving the password: %v", err)
	}
	let := 3
	for i := range 40 {
		if l.checkLogin(from("2.0.0."+strconv.Itoa(i)), "@alice:h") == nil {
			let++
		}
	}
	if let != 2*loginAddresses {
		t.Errorf("%d attempts from everywhere were let through", let)
	}
	for i := range loginSlots + 1000 {
		if err := l.checkLogin(from("1.2.3.4"), id.UserID("@u"+strconv.Itoa(i)+":h")); err != nil && i < 2 {
			t.Errorf("another user: %v", err)
		}
	}
	if n := l.buckets.EstimatedSize(); n > 2*loginSlots+100 {
		t.Errorf("made-up names made %d buckets", n)
	}
}

func TestIPv6CountsByNetwork(t *testing.T) {
	l := newLimiter(Limits{Enabled: true, Lookup: Class{PerAddress: Rate{1, time.Hour}}})
	for _, test := range []struct {
		address string
		refused bool
	}{
		{"2001:db8:0:1::1", false}, {"2001:db8:0:1:ffff::2", true}, {"2001:db8:0:2::1", false}, {"192.0.2.1", false}, {"192.0.2.2", false}, {"192.0.2.1", true},
	} {
		if err := l.check(limitLookup, from(test.address)); (err != nil) != test.refused {
			t.Errorf("%s: %v", test.address, err)
		}
	}
}

// TestEveryRouteHasALimit calls with a rate of one in each class: the second call of anything is refused.
func TestEveryRouteHasALimit(t *testing.T) {
	one := Class{PerUser: Rate{1, time.Hour}, PerAddress: Rate{1, time.Hour}}
	test := newTester(t, storetest.Open(t, t.TempDir()+"/test.db"), nil)
	alice, token := test.register("alice")
	if err := test.api.Account.SetAdmin(t.Context(), id.UserID(alice), true); err != nil {
		t.Fatal(err)
	}
	unlimited := map[string]bool{"/versions": true, "/v3/login": true}
	for _, r := range test.api.routes() {
		if r.auth == public && (r.method == GET && unlimited[r.path] || strings.HasPrefix(r.path, "/.well-known/")) {
			continue
		}
		limited := &API{Log: test.api.Log, Account: test.api.Account}
		limited.limiter = newLimiter(Limits{
			Enabled: true, Login: one, Registration: one, Message: one, Join: one, Media: one, Download: one, Lookup: one, Costly: one, Search: one, Other: one,
		})
		e := echo.New()
		e.HTTPErrorHandler = limited.answerError
		r.handle = func(*call) (any, error) { return nil, nil }
		limited.add(e, r)
		again := &tester{t, limited, e}
		for i, want := range []int{200, 429, 429} {
			if a := again.call(r.method, r.paths()[0], token, nil); a.code != want {
				t.Errorf("%s %s, call %d: %d", r.method, r.path, i, a.code)
				break
			}
		}
	}
}

func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(Limits{Enabled: true, Login: Class{PerUser: Rate{2, time.Minute}, PerAddress: Rate{3, time.Minute}}})
		at := func(user, address string) error {
			c := from(address)
			c.Requester.User = "@" + "a" + ":h"
			if user == "" {
				c.Requester.User = ""
			}
			return l.check(limitLogin, c)
		}
		for i := range 3 {
			if err := at("", "1.2.3.4"); err != nil {
				t.Fatalf("call %d: %v", i, err)
			}
		}
		f := asFailure(at("", "1.2.3.4"))
		if f == nil || f.status != 429 || f.code != "M_LIMIT_EXCEEDED" || f.after != 20*time.Second {
			t.Errorf("the fourth call: %+v", f)
		}
		if err := at("", "1.2.3.5"); err != nil {
			t.Errorf("another address: %v", err)
		}
		time.Sleep(20 * time.Second) // of the bubble's clock
		if err := at("", "1.2.3.4"); err != nil {
			t.Errorf("after waiting as told: %v", err)
		}
		for i, address := range []string{"2.0.0.1", "2.0.0.2", "2.0.0.3"} {
			if err := at("alice", address); (err != nil) != (i == 2) {
				t.Errorf("call %d of a user from everywhere: %v", i, err)
			}
		}
		for range 2 {
			if err := newLimiter(Limits{Login: Class{PerUser: Rate{1, time.Hour}}}).checkLogin(from("1.2.3.4"), "@x:h"); err != nil {
				t.Errorf("switched off: %v", err)
			}
		}
	})
}

func TestRetryAfter(t *testing.T) {
	test := newTester(t, storetest.Open(t, t.TempDir()+"/test.db"), func(a *API) {
		a.Limits = Limits{Enabled: true, Login: Class{PerAddress: Rate{1, time.Hour}}}
	})
	test.want(test.call(POST, "/_matrix/client/v3/login", "", `{}`), 400, "M_MISSING_PARAM")
	a := test.want(test.call(POST, "/_matrix/client/v3/login", "", `{}`), 429, "M_LIMIT_EXCEEDED")
	if ms, _ := a.body["retry_after_ms"].(float64); ms < 3_500_000 || a.header.Get("Retry-After") != "3600" {
		t.Errorf("got %v, Retry-After %q", a.body, a.header.Get("Retry-After"))
	}
}

// TestRoomsOfUnknownVersionsAreNamed: a client is told which version a room has that this server cannot join.
func TestRoomsOfUnknownVersionsAreNamed(t *testing.T) {
	f := asFailure(fmt.Errorf("join: %w", &room.IncompatibleVersion{Version: "next"}))
	if f == nil || f.status != 400 || f.code != "M_INCOMPATIBLE_ROOM_VERSION" || f.extra["room_version"] != id.RoomVersion("next") {
		t.Errorf("got %+v", f)
	}
	if f := asFailure(fmt.Errorf("create: %w", room.ErrUnknownVersion)); f == nil || f.code != "M_UNSUPPORTED_ROOM_VERSION" {
		t.Errorf("a version that a new room cannot have: %+v", f)
	}
}

// TestWhoWaitsStandsInLine: of many who send at a time, each is told another moment, and comes through then.
func TestWhoWaitsStandsInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(Limits{Enabled: true, Message: Class{PerUser: Rate{10, time.Second}}})
		alice := from("1.2.3.4")
		alice.Requester.User = "@alice:h"
		const sends = 160
		var refusals atomic.Int64
		var all sync.WaitGroup
		began := time.Now()
		for range sends {
			all.Go(func() {
				for err := l.check(limitMessage, alice); err != nil; err = l.check(limitMessage, alice) {
					refusals.Add(1)
					time.Sleep(asFailure(err).after)
				}
			})
		}
		all.Wait()
		if n := refusals.Load(); n > sends+sends/10 {
			t.Errorf("%d refusals for %d sends", n, sends)
		}
		if took := time.Since(began); took > 16*time.Second {
			t.Errorf("took %s", took)
		}
		// Who does not wait makes nobody else wait for ever.
		for range 100_000 {
			if err := l.check(limitMessage, alice); err != nil && asFailure(err).after > longestLine+time.Second {
				t.Fatalf("told to wait %s", asFailure(err).after)
			}
		}
	})
}
