package clientapi

import (
	"bytes"
	"log"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestSocketsEndInSilence closes a websocket: nothing more is written to what is no longer an HTTP connection.
func TestSocketsEndInSilence(t *testing.T) {
	statuses := make(chan int, 1)
	test := newTester(t, storetest.Open(t, t.TempDir()+"/test.db"), func(a *API) {
		a.Observe = func(_, _ string, status int, _ time.Duration) { statuses <- status }
	})
	test.api.limiter = nil
	var complaints bytes.Buffer
	server := httptest.NewUnstartedServer(test.api.Handler())
	server.Config.ErrorLog = log.New(&complaints, "", 0)
	server.Start()
	conn, answer, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http")+prefix+"/unstable/dev.securecomm.stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := conn.WriteJSON(map[string]string{"access_token": "wrong"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.ReadMessage(); !websocket.IsCloseError(err, tokenRevoked) {
		t.Errorf("it ended with %v", err)
	}
	conn.Close()
	if status := <-statuses; status != 101 {
		t.Errorf("it is counted as %d", status)
	}
	server.Close()
	if complaints.Len() > 0 {
		t.Errorf("the server complains: %s", &complaints)
	}
}

func TestWhatAUserHasOpenIsBounded(t *testing.T) {
	var p places
	var leave func()
	for i := range maxSockets {
		var err error
		if leave, err = p.enter("@alice:h", maxSockets); err != nil {
			t.Fatalf("socket %d: %v", i, err)
		}
	}
	if _, err := p.enter("@alice:h", maxSockets); asFailure(err) == nil || asFailure(err).code != "M_LIMIT_EXCEEDED" {
		t.Errorf("one more: %v", err)
	}
	if _, err := p.enter("@bob:h", maxSockets); err != nil {
		t.Errorf("another user: %v", err)
	}
	leave()
	if _, err := p.enter("@alice:h", maxSockets); err != nil {
		t.Errorf("after one was closed: %v", err)
	}
}

func TestSyncsOfAUserAreBounded(t *testing.T) {
	each(t, func(test *tester) {
		user, token := test.register("alice")
		for range maxSyncs {
			if _, err := test.api.syncs.enter(id.UserID(user), maxSyncs); err != nil {
				t.Fatal(err)
			}
		}
		told := map[any]bool{}
		for range 20 {
			a := test.want(test.call(GET, prefix+"/v3/sync", token, nil), 429, "M_LIMIT_EXCEEDED")
			if after := a.header.Get("Retry-After"); after != "1" && after != "2" {
				t.Errorf("headers %v", a.header)
			}
			told[a.body["retry_after_ms"]] = true
		}
		if len(told) < 3 {
			t.Errorf("all who wait come back at once: %v", told)
		}
	})
}

func TestSearchesOfAUserComeOneByOne(t *testing.T) {
	eachWithPush(t, func(test *tester) {
		user, token := test.register("alice")
		leave, err := test.api.searches.enter(id.UserID(user), 1)
		if err != nil {
			t.Fatal(err)
		}
		for range inLine {
			if !test.api.searches.line(id.UserID(user), 1) {
				t.Fatal("the line is full")
			}
		}
		body := map[string]any{"search_categories": map[string]any{"room_events": map[string]any{"search_term": "x"}}}
		test.want(test.call(POST, prefix+"/v3/search", token, body), 429, "M_LIMIT_EXCEEDED")
		test.want(test.call(GET, prefix+"/v3/notifications", token, nil), 429, "M_LIMIT_EXCEEDED")
		test.want(test.call(POST, prefix+"/v3/user_directory/search", token, map[string]any{"search_term": "x"}), 429, "M_LIMIT_EXCEEDED")
		test.want(test.call(GET, prefix+"/v1/rooms/!r:one.test/timestamp_to_event?ts=1&dir=f", token, nil), 429, "M_LIMIT_EXCEEDED")
		test.api.searches.line(id.UserID(user), -inLine)
		leave()
		for range 2 {
			test.want(test.call(GET, prefix+"/v3/notifications", token, nil), 200, "")
		}
	})
}

// TestPlacesAreWaitedFor: calls of one kind come one after the other, not all but one back, and nobody waits for ever.
func TestPlacesAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p places
		var running, most, done, refused int
		var mu sync.Mutex
		var all sync.WaitGroup
		for range 2 + inLine {
			all.Go(func() {
				leave, err := p.await(t.Context(), "@alice:one.test", 1)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					refused++
					return
				}
				running++
				most = max(most, running)
				mu.Unlock()
				<-time.After(time.Second)
				mu.Lock()
				running, done = running-1, done+1
				leave()
			})
		}
		all.Wait()
		if most != 1 || done != 1+inLine || refused != 1 {
			t.Errorf("%d at a time, %d done, %d refused", most, done, refused)
		}
		hold, err := p.enter("@alice:one.test", 1)
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if _, err := p.await(t.Context(), "@alice:one.test", 1); err == nil || time.Since(begun) != linePatience {
			t.Errorf("waited %v: %v", time.Since(begun), err)
		}
		hold()
		if len(p.taken) != 0 || len(p.waiting) != 0 {
			t.Errorf("left are %v and %v", p.taken, p.waiting)
		}
	})
}
