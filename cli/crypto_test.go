package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/e2ee/vault"
	"github.com/securecomm/securecomm/homeserver/id"
)

// answers is a server that answers every request by a function.
type answers func(*http.Request) (status int, body string)

func (a answers) RoundTrip(req *http.Request) (*http.Response, error) {
	status, body := a(req)
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
}

func openMachine(t *testing.T, user id.UserID) *e2ee.Machine {
	t.Helper()
	dir := t.TempDir()
	key, err := vault.KeyFile(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(filepath.Join(dir, "vault"), key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	machine, err := e2ee.Open(v, user, "D")
	if err != nil {
		t.Fatal(err)
	}
	return machine
}

// TestRefusedMessages has a server refuse the first of two messages to devices: for good, then the second goes out; else
// both wait.
func TestRefusedMessages(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		left   int
	}{
		{400, `{"errcode":"M_BAD_JSON"}`, 0},
		{413, `<html>`, 0},
		{404, `<html>`, 2},
		{401, `{"errcode":"M_UNKNOWN_TOKEN"}`, 2},
		{500, `{"errcode":"M_UNKNOWN"}`, 2},
	} {
		s := newSession(t)
		s.machine = openMachine(t, "@me:h")
		var notes strings.Builder
		s.app.err = &notes
		bob, err := openMachine(t, "@bob:h").KeysUpload()
		if err != nil {
			t.Fatal(err)
		}
		query, err := s.machine.UsersToQuery("@bob:h")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.machine.ReceiveKeysQuery(query, fmt.Appendf(nil, `{"device_keys":{"@bob:h":{"D":%s}}}`, bob.DeviceKeys)); err != nil {
			t.Fatal(err)
		}
		for _, room := range []id.RoomID{"!a:h", "!b:h"} { // bob is told that nothing can be sent to him
			if _, err := s.machine.ShareRoomKey(room, e2ee.Sharing{Members: []id.UserID{"@bob:h"}}); err != nil {
				t.Fatal(err)
			}
		}
		calls := 0
		s.client = &client.Client{Base: "https://h", HTTP: &http.Client{Transport: answers(func(req *http.Request) (int, string) {
			var body map[string]json.RawMessage
			if err := json.NewDecoder(req.Body).Decode(&body); err != nil || body["messages"] == nil {
				t.Error(err)
			}
			if calls++; calls == 1 {
				return c.status, c.body
			}
			return 200, `{}`
		})}}
		err = s.sendOutbox(t.Context())
		var refused *client.Error
		if c.left > 0 && !errors.As(err, &refused) || c.left == 0 && err != nil {
			t.Errorf("status %d: %v", c.status, err)
		}
		if told := strings.Contains(notes.String(), "to @bob:h, which is given up"); told != (c.left == 0) {
			t.Errorf("status %d: the user is told %q", c.status, notes.String())
		}
		if waiting, err := s.machine.Outbox(); err != nil || len(waiting) != c.left {
			t.Errorf("status %d: %d messages wait, %v", c.status, len(waiting), err)
		}
	}
}

// TestTokensAreKept has an access token expire: the next run has the new ones, which nobody can read on disk.
func TestTokensAreKept(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.URL.Path == "/_matrix/client/v3/refresh":
			fmt.Fprint(w, `{"access_token":"new-access","refresh_token":"new-refresh"}`)
		case req.Header.Get("Authorization") == "Bearer new-access":
			fmt.Fprint(w, `{"user_id":"@me:h"}`)
		default:
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true}`)
		}
	}))
	defer server.Close()
	dir := t.TempDir()
	key, err := vault.KeyFile(filepath.Join(dir, keyFile))
	if err != nil {
		t.Fatal(err)
	}
	p := &profile{app: newApp(Stdio{In: strings.NewReader(""), Err: t.Output()}), dir: dir}
	if err := p.unlock(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if err := p.store(recordSession, account{User: "@me:h", Device: "D", Token: "old", Refresh: "old-refresh", Base: server.URL}); err != nil {
		t.Fatal(err)
	}
	s, err := p.session()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.WhoAmI(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.close(), p.unlock(t.Context(), key)); err != nil {
		t.Fatal(err)
	}
	defer p.close()
	who, err := p.account()
	if err != nil || who.Token != "new-access" || who.Refresh != "new-refresh" || who.Device != "D" || who.Base != server.URL {
		t.Errorf("kept %+v, %v", who, err)
	}
	content, err := os.ReadFile(filepath.Join(dir, vaultFile))
	if err != nil || bytes.Contains(content, []byte("new-")) {
		t.Errorf("the file shows the tokens: %v", err)
	}
}

// TestFirstIdentity logs in to an account without an identity, and to one that has one: the password that was given is
// used once, and what the server refuses leaves the account as it is, with a word of how to go on.
func TestFirstIdentity(t *testing.T) {
	const flows = `{"session":"x","flows":[{"stages":["m.login.password"]}]}`
	for _, c := range []struct {
		what    string
		refusal string // of the upload with the password
		calls   int
		note    bool
	}{
		{"it is taken", "", 2, false},
		{"the password is not taken", flows, 2, true},
		{"it is forbidden", `{"errcode":"M_FORBIDDEN"}`, 2, true},
	} {
		s := newSession(t)
		s.machine = openMachine(t, "@me:h")
		var notes strings.Builder
		s.app.err = &notes
		calls, signed := 0, false
		s.client = &client.Client{Base: "https://h", HTTP: &http.Client{Transport: answers(func(req *http.Request) (int, string) {
			switch {
			case strings.HasSuffix(req.URL.Path, "/signatures/upload"):
				signed = true
				return 200, `{"failures":{}}`
			case !strings.HasSuffix(req.URL.Path, "/device_signing/upload"):
				return 200, `{"device_keys":{"@me:h":{}}}`
			}
			calls++
			body, err := io.ReadAll(req.Body)
			if err != nil {
				t.Error(err)
			}
			if given := bytes.Contains(body, []byte(`"password":"secret"`)); given != (calls == 2) {
				t.Errorf("%s: call %d has the password: %v", c.what, calls, given)
			}
			switch {
			case calls == 1:
				return 401, flows
			case c.refusal == flows:
				return 401, flows
			case c.refusal != "":
				return 403, c.refusal
			}
			return 200, `{}`
		})}}
		if err := s.firstIdentity(t.Context(), "secret"); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if told := strings.Contains(notes.String(), `Make it with "securecomm keys bootstrap".`); told != c.note || calls != c.calls ||
			s.machine.HasCrossSigning() == c.note || signed == c.note {
			t.Errorf("%s: %d calls, signed %v, told %q", c.what, calls, signed, notes.String())
		}
	}
}
