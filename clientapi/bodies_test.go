package clientapi

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

const bodyPath = "/_matrix/client/v3/keys/query"

// slowBody is a request whose body comes bit by bit.
type slowBody struct {
	*io.PipeWriter
	answered chan *httptest.ResponseRecorder
}

func (t *tester) slowBody(token string, size int64) *slowBody {
	body, in := io.Pipe()
	r := httptest.NewRequest(POST, bodyPath, body)
	r.ContentLength = size
	r.Header.Set("Authorization", "Bearer "+token)
	s := &slowBody{in, make(chan *httptest.ResponseRecorder, 1)}
	go func() {
		w := httptest.NewRecorder()
		t.echo.ServeHTTP(w, r)
		s.answered <- w
		_ = body.Close()
	}()
	return s
}

// send returns once bytes were taken in, which is when more is asked for; false if the request is over.
func (s *slowBody) send(p []byte) bool {
	if _, err := s.Write(p); err != nil {
		return false
	}
	_, err := s.Write(nil)
	return err == nil
}

// TestSlowBodiesAreBounded: what one user has sent of bodies that never end bounds what that user may send, and nobody else.
func TestSlowBodiesAreBounded(t *testing.T) {
	test := newTester(t, storetest.Open(t, t.TempDir()+"/test.db"), nil)
	_, alice := test.register("alice")
	_, bob := test.register("bob")
	most := []byte(strings.Repeat("x", maxBody-1))
	var open []*slowBody
	refused := 0
	for range 2 * userLoad / maxBody {
		s := test.slowBody(alice, maxBody)
		if s.send(most) {
			open = append(open, s)
			continue
		}
		if w := <-s.answered; w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
			t.Errorf("beyond the bound: %d %s", w.Code, w.Body)
		}
		refused++
	}
	if want := int64(len(open)) * int64(len(most)-load.Free); refused == 0 || test.api.bodies.Held() > userLoad || test.api.bodies.Held() != want {
		t.Errorf("%d bodies are held, %d were refused, %d bytes are charged of %d", len(open), refused, test.api.bodies.Held(), want)
	}
	test.want(test.call(POST, bodyPath, alice, strings.Repeat("x", load.Free)), 400, "M_NOT_JSON")
	test.want(test.call(POST, bodyPath, bob, string(most)), 400, "M_NOT_JSON")
	for _, s := range open {
		_, _ = s.Write([]byte("x"))
		_ = s.Close()
		if w := <-s.answered; w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "not valid") {
			t.Errorf("a body that was let in: %d %s", w.Code, w.Body)
		}
	}
	if held := test.api.bodies.Held(); held != 0 {
		t.Errorf("in the end %d bytes are charged", held)
	}
}

// TestALengthSizesNothing: memory grows with what has come of a body, not with what was announced.
func TestALengthSizesNothing(t *testing.T) {
	test := newTester(t, storetest.Open(t, t.TempDir()+"/test.db"), nil)
	_, alice := test.register("alice")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const times = 50
	for range times {
		s := test.slowBody(alice, maxBody)
		s.send([]byte("x"))
		_ = s.CloseWithError(io.ErrUnexpectedEOF) // as net/http says it
		if w := <-s.answered; w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "too early") {
			t.Errorf("a body that breaks off: %d %s", w.Code, w.Body)
		}
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > times*maxBody/4 {
		t.Errorf("%d bytes were allocated for %d", used, times)
	}
}

// TestStrangersSendLittle: without an account, nobody sends more than a connection takes up.
func TestStrangersSendLittle(t *testing.T) {
	test := newTester(t, storetest.Open(t, t.TempDir()+"/test.db"), nil)
	for _, path := range []string{"v3/register", "v3/login", "v3/refresh"} {
		test.want(test.call(POST, "/_matrix/client/"+path, "", strings.Repeat("x", load.Free)), 400, "M_NOT_JSON")
		test.want(test.call(POST, "/_matrix/client/"+path, "", strings.Repeat("x", load.Free+1)), 413, "M_TOO_LARGE")
	}
}

// TestTheFullestMakesRoom: when all is taken, a body that has come slowly makes room for somebody who has less.
func TestTheFullestMakesRoom(t *testing.T) {
	test := newTester(t, storetest.Open(t, t.TempDir()+"/test.db"), nil)
	_, alice := test.register("alice")
	_, bob := test.register("bob")
	server := httptest.NewServer(test.echo)
	defer server.Close()
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", bodyPath, alice, maxBody, strings.Repeat("x", maxBody/2))
	if err != nil {
		t.Fatal(err)
	}
	stage := &test.api.bodies
	waittest.Until(t, "half of a body is charged", func() bool { return stage.Held() >= maxBody/2-load.Free })
	rest := stage.Charge("the rest", nil)
	if err := rest.Grow(allLoad - stage.Held() + load.Free); err != nil {
		t.Fatal(err)
	}
	test.want(test.call(POST, bodyPath, bob, strings.Repeat("x", 2*load.Free)), 400, "M_NOT_JSON")
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("who made room gets no answer: %v", err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusTooManyRequests {
		t.Errorf("who made room is answered with %d", answer.StatusCode)
	}
	test.want(test.call(POST, bodyPath, bob, strings.Repeat("x", maxBody)), 429, "M_LIMIT_EXCEEDED")
	if rest.End(); stage.Held() != 0 {
		t.Errorf("in the end %d bytes are charged", stage.Held())
	}
}
