package clientapi

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestFailedSignInsAreLogged has somebody guess passwords: for a session, and for what asks for the password again.
func TestFailedSignInsAreLogged(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		var log bytes.Buffer
		test := newTester(t, db, func(a *API) { a.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		body := `{"username":"alice","password":"wordpass-alice","auth":{"type":"m.login.dummy"}}`
		token, _ := test.want(test.call(POST, "/_matrix/client/v3/register", "", body), 200, "").body["access_token"].(string)
		login := func(password string) string {
			return `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":"` + password + `"}`
		}
		test.want(test.call(POST, "/_matrix/client/v3/login", "", login("wrong")), 403, "M_FORBIDDEN")
		test.want(test.call(POST, "/_matrix/client/v3/login", "", login("wordpass-alice")), 200, "")
		again := `{"new_password":"new-wordpass","auth":` + login("wrong") + `}`
		test.want(test.call(POST, "/_matrix/client/v3/account/password", token, again), 401, "M_FORBIDDEN")
		lines := strings.Count(log.String(), "a sign-in failed")
		if lines != 2 || strings.Count(log.String(), "address=192.0.2.1") != 2 || strings.Contains(log.String(), "wrong\"") {
			t.Errorf("of two failures of three the log says\n%s", log.String())
		}
	})
}
