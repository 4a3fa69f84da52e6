package clientapi

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/securecomm/securecomm/homeserver/id"
)

// TestLargeAnswersComeInPieces: a large answer goes out while it is gathered, and a user has only some of them at a time.
// Usual ones are sent as a whole and do not count.
func TestLargeAnswersComeInPieces(t *testing.T) {
	a := &API{Log: slog.New(slog.DiscardHandler), limiter: newLimiter(Limits{})}
	e := echo.New()
	e.HTTPErrorHandler = a.answerError
	fails := false
	answer := func(n int) func(*call) (any, error) {
		return func(c *call) (any, error) {
			c.Requester.User = "@alice:one.test"
			return a.inPieces(c, `{"chunk":[`, "]}", func(w *pieces) error {
				for range n {
					if err := w.items([]json.RawMessage{json.RawMessage(`"` + strings.Repeat("x", 100_000) + `"`)}); err != nil {
						return err
					}
					if len(w.buf) > maxHeld {
						t.Errorf("%d bytes are held", len(w.buf))
					}
				}
				if fails {
					return errNotJSON
				}
				return nil
			})
		}
	}
	a.add(e, route{GET, "/v3/none", public, none, answer(0)})
	a.add(e, route{GET, "/v3/usual", public, none, answer(3)})
	a.add(e, route{GET, "/v3/large", public, none, answer(100)})
	ask := func(path string, n, code int) *httptest.ResponseRecorder {
		t.Helper()
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequest(GET, prefix+path, nil))
		var got struct{ Chunk []string }
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || len(got.Chunk) != n || w.Code != code {
			t.Errorf("%s: %d with %d items, %v", path, w.Code, len(got.Chunk), err)
		}
		return w
	}
	for path, n := range map[string]int{"/v3/none": 0, "/v3/usual": 3, "/v3/large": 100} {
		if w := ask(path, n, 200); (w.Header().Get("Content-Length") == "") != (n == 100) {
			t.Errorf("%s: length %q", path, w.Header().Get("Content-Length"))
		}
	}
	for range largeAnswers {
		leave, err := a.wholes.enter(id.UserID("@alice:one.test"), largeAnswers)
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
	}
	ask("/v3/large", 0, 429)
	ask("/v3/usual", 3, 200)
	a.wholes = places{}
	fails = true
	ask("/v3/usual", 0, 400)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a large answer that fails looks like a whole one")
			}
		}()
		ask("/v3/large", 0, 200)
	}()
	if len(a.wholes.taken) != 0 {
		t.Error("an answer that failed keeps its place")
	}
}
