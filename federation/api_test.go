package federation

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/federation/federationtest"
	"github.com/securecomm/securecomm/federation/keyring"
	"github.com/securecomm/securecomm/federation/sender"
	"github.com/securecomm/securecomm/federation/xmatrix"
	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/directory"
	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

var update = flag.Bool("update", false, "rewrite the golden list of routes")

func TestRoutesGolden(t *testing.T) {
	const golden = "testdata/routes.golden"
	var lines []string
	for _, r := range (&API{}).routes() {
		lines = append(lines, fmt.Sprintf("%-4s %s %s\n", r.method, r.fullPath(), r.auth))
	}
	slices.Sort(lines)
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
		t.Errorf("the routes differ from %s; if that is meant, run go test ./federation -run Golden -update\n%s", golden, got)
	}
}

// peer is a server of a test, without clients.
type peer struct {
	*testing.T
	name   id.ServerName
	key    sign.Key
	store  *store.DB
	rooms  *room.Engine
	api    *API
	remote *Remote
	out    *sender.Sender
	echo   *echo.Echo
}

func newPeer(t *testing.T, n *federationtest.Net, name id.ServerName, db *store.DB) *peer {
	t.Helper()
	key, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	c := n.Client(t, name, key)
	ring := &keyring.Keyring{Server: name, Key: key, Store: db, Client: c, Log: log}
	remote := &Remote{Client: c, Keyring: ring}
	out := &sender.Sender{Store: db, Client: c, Log: log, MinPause: time.Millisecond, SettleFor: time.Hour}
	rooms := &room.Engine{Store: db, Server: name, Key: key, Remote: remote, DefaultVersion: event.DefaultVersion, Log: log}
	api := &API{
		Server: name, Store: db, Keyring: ring, Rooms: rooms, Log: log, Woke: out.Woke,
		Account:   account.New(account.Options{DB: db, Server: name, Log: log, Registration: account.Registration{Open: true}}),
		Keys:      &keys.Service{Store: db, Server: name, Remote: remote, Log: log},
		Directory: &directory.Service{Store: db, Server: name, Remote: remote, Servers: rooms.Servers},
		Ephemeral: ephemeral.New(ephemeral.Options{Store: db, Server: name, Rooms: rooms, Log: log}),
	}
	e := echo.New()
	api.Register(e)
	e.HTTPErrorHandler = api.AnswerError
	n.Serve(name, e)
	err = db.Update(t.Context(), func(tx *store.Tx) error {
		for _, user := range []string{"alice", "bob"} {
			if _, err := tx.Users.Insert(store.User{ID: id.UserID("@" + user + ":" + string(name))}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Serve(name, nil)
		out.Close()
		api.Close()
	})
	return &peer{t, name, key, db, rooms, api, remote, out, e}
}

// request signs a request of this server to another and gives it to the other directly.
func (p *peer) request(to *peer, method, uri, body string, change func(*http.Request)) (int, map[string]any) {
	p.Helper()
	var content []byte
	if body != "" {
		content = []byte(body)
	}
	r := httptest.NewRequest(method, uri, bytes.NewReader(content))
	authorization, err := xmatrix.Sign(xmatrix.Request{Method: method, URI: uri, Content: content}, p.name, to.name, p.key)
	if err != nil {
		p.Fatal(err)
	}
	r.Header.Set("Authorization", authorization)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	to.echo.ServeHTTP(w, r)
	var answer map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		p.Fatalf("%s %s: %s", method, uri, w.Body)
	}
	return w.Code, answer
}

func pair(t *testing.T, test func(t *testing.T, us, them *peer)) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n := federationtest.New(t, "us.test", "them.test")
		test(t, newPeer(t, n, "us.test", db), newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db")))
	})
}

func TestRequestsAreAuthenticated(t *testing.T) {
	n := federationtest.New(t, "us.test", "them.test", "denied.test")
	open := func(name string) *store.DB { return storetest.Open(t, t.TempDir()+"/"+name) }
	us, them := newPeer(t, n, "us.test", open("us")), newPeer(t, n, "them.test", open("them"))
	denied := newPeer(t, n, "denied.test", open("denied"))
	us.api.Allows = func(s id.ServerName) bool { return s != "denied.test" }
	const path = "/_matrix/federation/v1/query/profile?user_id=%40nobody%3Aus.test&field=a%2Fb"
	header := func(h ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header["Authorization"] = h }
	}
	signedFor := func(destination id.ServerName, uri string) string {
		h, err := xmatrix.Sign(xmatrix.Request{Method: "GET", URI: uri}, "them.test", destination, them.key)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	impostor := *them
	impostor.key, _ = sign.NewKey()
	impostor.key.ID = them.key.ID
	self := *them
	self.name, self.key = us.name, us.key
	for _, c := range []struct {
		what   string
		by     *peer
		method string
		uri    string
		body   string
		change func(*http.Request)
		status int
		code   string
	}{
		{"a good signature", them, "GET", path, "", nil, 404, "M_NOT_FOUND"},
		{"no signature", them, "GET", path, "", header(), 401, "M_UNAUTHORIZED"},
		{"another scheme", them, "GET", path, "", header("Bearer x"), 401, "M_UNAUTHORIZED"},
		{"a broken header", them, "GET", path, "", header("X-Matrix origin="), 401, "M_UNAUTHORIZED"},
		{"for another server", them, "GET", path, "", header(signedFor("else.test", path)), 401, "M_UNAUTHORIZED"},
		{"for no server in particular", them, "GET", path, "", header(signedFor("", path)), 404, "M_NOT_FOUND"},
		{"a second header that is good", them, "GET", path, "", header(signedFor("else.test", path), signedFor("us.test", path)), 404, "M_NOT_FOUND"},
		{"another path", them, "GET", path, "", header(signedFor("us.test", "/x")), 401, "M_UNAUTHORIZED"},
		{"another key", &impostor, "GET", path, "", nil, 401, "M_UNAUTHORIZED"},
		{"as ourselves", &self, "GET", path, "", nil, 401, "M_UNAUTHORIZED"},
		{"a server that is denied", denied, "GET", path, "", nil, 403, "M_FORBIDDEN"},
		{"a changed body", them, "PUT", "/_matrix/federation/v1/send/1", `{"pdus":[]}`, func(r *http.Request) {
			r.Body = http.NoBody
			r.ContentLength = 0
		}, 401, "M_UNAUTHORIZED"},
		{"a bad port in a name", them, "GET", "/_matrix/federation/v1/query/profile?user_id=@user1:localhost:http&field=displayname", "", nil, 400, "M_INVALID_PARAM"},
		{"an unknown endpoint", them, "GET", "/_matrix/federation/v1/unknown", "", nil, 404, "M_UNRECOGNIZED"},
		{"an unknown method", them, "PUT", "/_matrix/federation/v1/version", "", nil, 405, "M_UNRECOGNIZED"},
		{"a body that is too large", them, "PUT", "/_matrix/federation/v2/send_leave/!a:b/$c", `{"a":"` + strings.Repeat("x", small) + `"}`, nil, 413, "M_TOO_LARGE"},
	} {
		t.Run(c.what, func(t *testing.T) {
			status, answer := c.by.request(us, c.method, c.uri, c.body, c.change)
			if status != c.status || answer["errcode"] != c.code {
				t.Errorf("got %d %v", status, answer)
			}
		})
	}
}

func TestTransactions(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat"})
		if err := them.join(roomID, bob, "us.test"); err != nil {
			t.Fatal(err)
		}
		typing := func(user id.UserID, on bool) string {
			return fmt.Sprintf(`{"edu_type":"m.typing","content":{"room_id":%q,"user_id":%q,"typing":%t}}`, roomID, user, on)
		}
		send := func(txn string, edus ...string) (int, map[string]any) {
			body := `{"edus":[` + strings.Join(edus, ",") + `],"pdus":[{"room_id":"!unknown:us.test"},{"room_id":7},8]}`
			return them.request(us, "PUT", "/_matrix/federation/v1/send/"+txn, body, nil)
		}
		// Typing ends by itself after a while, so what is asked is whether there was news of it.
		began := us.api.Ephemeral.Volatile()
		status, answer := send("1", typing(alice, true), `{"edu_type":"m.typing","content":[]}`, `{"edu_type":"m.unheard.of","content":{}}`, `5`, typing(bob, true))
		if status != 200 || len(answer) != 1 || len(answer["pdus"].(map[string]any)) != 0 {
			t.Errorf("got %d %v", status, answer)
		}
		if got := us.api.Ephemeral.Typing(roomID); us.api.Ephemeral.Volatile() == began || slices.Contains(got, alice) {
			t.Errorf("typing are %v", got)
		}
		send("2", typing(bob, false))
		quiet := us.api.Ephemeral.Volatile()
		if status, _ := send("1", typing(bob, true)); status != 200 {
			t.Errorf("a repeated transaction is answered with %d", status)
		}
		if us.api.Ephemeral.Volatile() != quiet {
			t.Error("a repeated transaction has an effect")
		}
		us.set(roomID, alice, "m.room.server_acl", `{"allow":["*"],"deny":["them.*"]}`)
		quiet = us.api.Ephemeral.Volatile()
		send("4", typing(bob, true))
		if us.api.Ephemeral.Volatile() != quiet {
			t.Error("a barred server's typing has an effect")
		}
	})
}

func TestTransactionLimits(t *testing.T) {
	n := federationtest.New(t, "us.test", "them.test")
	us := newPeer(t, n, "us.test", storetest.Open(t, t.TempDir()+"/us.db"))
	them := newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db"))
	for name, limit := range map[string]int{"pdus": client.MaxPDUs, "edus": client.MaxEDUs} {
		for n, want := range map[int]int{limit: 200, limit + 1: 400} {
			body := `{"` + name + `":[` + strings.TrimSuffix(strings.Repeat("{},", n), ",") + `]}`
			if status, answer := them.request(us, "PUT", fmt.Sprintf("/_matrix/federation/v1/send/%s%d", name, n), body, nil); status != want {
				t.Errorf("%d %s: got %d %v", n, name, status, answer)
			}
		}
	}
}

func TestKeysAreServed(t *testing.T) {
	n := federationtest.New(t, "us.test", "them.test")
	us := newPeer(t, n, "us.test", storetest.Open(t, t.TempDir()+"/us.db"))
	newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db"))
	get := func(method, path, body string) map[string]any {
		w := httptest.NewRecorder()
		us.echo.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		var answer map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != 200 {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		return answer
	}
	for _, path := range []string{"/_matrix/key/v2/server", "/_matrix/key/v2/server/", "/_matrix/key/v2/server/ed25519:x"} {
		if got := get("GET", path, "")["server_name"]; got != "us.test" {
			t.Errorf("%s: the keys of %v", path, got)
		}
	}
	for _, answer := range []map[string]any{
		get("GET", "/_matrix/key/v2/query/them.test", ""),
		get("POST", "/_matrix/key/v2/query", `{"server_keys":{"them.test":{}}}`),
	} {
		lists := answer["server_keys"].([]any)
		if len(lists) != 1 || len(lists[0].(map[string]any)["signatures"].(map[string]any)) != 2 {
			t.Errorf("got %v", answer)
		}
	}
}
