package clientapi

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/securecomm/securecomm/homeserver/clientsync"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestEveryLargeAnswerIsCharged: no handler can answer with much without its being charged, not even to strangers.
func TestEveryLargeAnswerIsCharged(t *testing.T) {
	test := newTester(t, storetest.Open(t, t.TempDir()+"/test.db"), func(a *API) {
		a.Sync = &clientsync.Engine{Answers: load.Stage{Each: 2 << 20, All: 2 << 20}}
	})
	stage := &test.api.Sync.Answers
	_, alice := test.register("alice")
	const size = 1 << 20
	for name, large := range map[string]any{"a value": map[string]any{"x": strings.Repeat("x", size)}, "text": status{200, strings.Repeat("x", size)}} {
		for who, token := range map[string]string{"a user": alice, "a stranger": ""} {
			e := echo.New()
			e.HTTPErrorHandler = test.api.answerError
			test.api.add(e, route{GET, "/v3/large", optional, none, func(*call) (any, error) { return large, nil }})
			ask := func(code int) {
				t.Helper()
				r, w := httptest.NewRequest(GET, prefix+"/v3/large", nil), httptest.NewRecorder()
				if token != "" {
					r.Header.Set("Authorization", "Bearer "+token)
				}
				if e.ServeHTTP(w, r); w.Code != code || code == 429 && w.Header().Get("Retry-After") == "" {
					t.Errorf("%s for %s: %d", name, who, w.Code)
				}
			}
			rest := stage.Charge("the rest", nil)
			if err := rest.Grow(size); err != nil {
				t.Fatal(err)
			}
			ask(429)
			rest.End()
			ask(200)
			if stage.Held() != 0 {
				t.Errorf("%s for %s: %d bytes stay charged", name, who, stage.Held())
			}
		}
	}
}

// TestFewLargeAnswersAreGathered: what may be as large as a room is not even read while enough of it is for a user.
func TestFewLargeAnswersAreGathered(t *testing.T) {
	test := newTester(t, storetest.Open(t, t.TempDir()+"/test.db"), nil)
	user, token := test.register("alice")
	for _, p := range []*places{&test.api.rooms, &test.api.pages, &test.api.spaces} {
		for range maxGathers {
			leave, err := p.enter(id.UserID(user), maxGathers)
			if err != nil {
				t.Fatal(err)
			}
			defer leave()
		}
		for range gathersInLine {
			p.line(id.UserID(user), 1)
		}
	}
	for _, path := range []string{
		"v3/context/$e", "v3/initialSync", "v3/state", "v3/members", "v3/joined_members", "v3/messages", "v1/hierarchy", "v1/threads",
		"v1/relations/$e", "v1/relations/$e/m.thread", "v1/relations/$e/m.thread/m.room.message",
	} {
		version, name, _ := strings.Cut(path, "/")
		test.want(test.call(GET, prefix+"/"+version+"/rooms/!a:b.test/"+name, token, nil), 429, "M_LIMIT_EXCEEDED")
	}
}
