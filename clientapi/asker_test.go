package clientapi

import (
	"context"
	"errors"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/store"
)

// TestWhomIsReadFor: what a request reads counts as its user's, or as its address's where it is nobody's; of IPv6, as its network's.
func TestWhomIsReadFor(t *testing.T) {
	eachWithPush(t, func(test *tester) {
		name, token := test.register("alice")
		for _, c := range []struct {
			need        auth
			from, token string
			want        string
		}{
			{public, "192.0.2.7", "", "192.0.2.7"}, {optional, "192.0.2.7", "", "192.0.2.7"}, {optional, "192.0.2.7", token, name},
			{public, "192.0.2.7", token, "192.0.2.7"}, {user, "192.0.2.7", token, name}, {public, "[2001:db8::1:2:3]", "", "2001:db8::/64"},
		} {
			r := httptest.NewRequest(GET, "/", nil)
			r.RemoteAddr = c.from + ":4000"
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

// TestUnknownTokensAreReadForNetworks: until it is known whose a token is, looking it up counts as the network's of the address.
func TestUnknownTokensAreReadForNetworks(t *testing.T) {
	eachWithPush(t, func(test *tester) {
		var reading sync.WaitGroup
		defer reading.Wait()
		release := make(chan struct{})
		defer close(release)
		for range 2 { // of four readers
			entered := make(chan struct{})
			reading.Go(func() {
				err := test.api.Store.View(context.WithValue(test.Context(), store.Asker{}, "2001:db8::/64"), func(*store.Tx) error {
					close(entered)
					<-release
					return nil
				})
				if err != nil {
					test.Error(err)
				}
			})
			<-entered
		}
		for _, c := range []struct {
			from  string
			limit time.Duration
			want  error
		}{
			{"[2001:db8::1:2:3]", 100 * time.Millisecond, context.DeadlineExceeded}, // it waits for those two
			{"[2001:db8:0:1::1]", time.Minute, account.ErrUnknownToken},
		} {
			ctx, cancel := context.WithTimeout(test.Context(), c.limit)
			r := httptest.NewRequestWithContext(ctx, GET, "/", nil)
			r.RemoteAddr = c.from + ":4000"
			r.Header.Set("Authorization", "Bearer unknown")
			err := test.api.serve(route{auth: user})(echo.New().NewContext(r, httptest.NewRecorder()))
			if !errors.Is(err, c.want) {
				test.Errorf("from %s: %v", c.from, err)
			}
			cancel()
		}
	})
}
