package clientapi

import (
	"net/http/httptest"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/securecomm/securecomm/homeserver/store"
)

// TestWhomIsReadFor: what a request reads counts as its user's, or as its address's where it is nobody's.
func TestWhomIsReadFor(t *testing.T) {
	eachWithPush(t, func(test *tester) {
		name, token := test.register("alice")
		for _, c := range []struct {
			need  auth
			token string
			want  string
		}{{public, "", "192.0.2.7"}, {optional, "", "192.0.2.7"}, {optional, token, name}, {public, token, "192.0.2.7"}, {user, token, name}} {
			r := httptest.NewRequest(GET, "/", nil)
			r.RemoteAddr = "192.0.2.7:4000"
			if c.token != "" {
				r.Header.Set("Authorization", "Bearer "+c.token)
			}
			var who any
			err := test.api.serve(route{auth: c.need, handle: func(k *call) (any, error) {
				who = k.Request().Context().Value(store.Asker{})
				return nil, nil
			}})(echo.New().NewContext(r, httptest.NewRecorder()))
			if err != nil || who != c.want {
				test.Errorf("%s with a token %q: %v (%v)", c.need, c.token, who, err)
			}
		}
	})
}
