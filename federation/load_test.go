package federation

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/federation/federationtest"
	"github.com/securecomm/securecomm/federation/xmatrix"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// counting is a body that tells how much of it was read.
type counting struct {
	io.Reader
	read int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.read += n
	return n, err
}

func (c *counting) Close() error { return nil }

func TestBodiesAreBounded(t *testing.T) {
	n := federationtest.New(t, "us.test", "them.test")
	us := newPeer(t, n, "us.test", storetest.Open(t, t.TempDir()+"/us.db"))
	them := newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db"))
	const uri = "/_matrix/federation/v1/send/1"
	send := func(content string, header ...string) (*httptest.ResponseRecorder, int) {
		t.Helper()
		body := &counting{Reader: strings.NewReader(content)}
		r := httptest.NewRequest(http.MethodPut, uri, body)
		r.ContentLength, r.Header["Authorization"] = int64(len(content)), header
		w := httptest.NewRecorder()
		us.echo.ServeHTTP(w, r)
		return w, body.read
	}
	signed := func(content string, to *peer) string {
		h, err := xmatrix.Sign(xmatrix.Request{Method: http.MethodPut, URI: uri, Content: []byte(content)}, "them.test", to.name, them.key)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	small, large := `{"x":1}`, `{"x":"`+strings.Repeat("x", 2*load.Free)+`"}`
	for what, header := range map[string][]string{"none": nil, "another scheme": {"Bearer x"}, "for another": {signed(large, them)}} {
		if w, read := send(large, header...); w.Code != http.StatusUnauthorized || read != 0 {
			t.Errorf("authorization %s: %d after %d bytes", what, w.Code, read)
		}
	}
	for _, stage := range []*load.Stage{&us.api.arriving, &us.api.inWork} {
		full := stage.Charge("rest", nil)
		if err := full.Grow(allLoad + load.Free); err != nil {
			t.Fatal(err)
		}
		if w, _ := send(large, signed(large, us)); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
			t.Errorf("a large body beyond the bound: %d %s", w.Code, w.Body)
		}
		if w, _ := send(small, signed(small, us)); w.Code != http.StatusOK {
			t.Errorf("a small body is refused: %d %s", w.Code, w.Body)
		}
		full.End()
	}
	if w, _ := send(large, signed(large, us)); w.Code != http.StatusOK {
		t.Errorf("a large body: %d %s", w.Code, w.Body)
	}
	us.api.Close() // waits for what is still at work
	for _, stage := range []*load.Stage{&us.api.arriving, &us.api.inWork} {
		if held := stage.Held(); held != 0 {
			t.Errorf("in the end there are %d bytes", held)
		}
	}
}

func TestUnitsAreCountedBeforeTheyAreDecoded(t *testing.T) {
	n := federationtest.New(t, "us.test", "them.test")
	us := newPeer(t, n, "us.test", storetest.Open(t, t.TempDir()+"/us.db"))
	them := newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db"))
	const uri = "/_matrix/federation/v1/send/1"
	content := `{"pdus":[0` + strings.Repeat(",0", 2<<20) + `]}`
	h, err := xmatrix.Sign(xmatrix.Request{Method: http.MethodPut, URI: uri, Content: []byte(content)}, them.name, us.name, them.key)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPut, uri, strings.NewReader(content))
	r.Header.Set("Authorization", h)
	w := httptest.NewRecorder()
	used := allocated(func() { us.echo.ServeHTTP(w, r) })
	if w.Code != http.StatusBadRequest || used > uint64(8*len(content)) {
		t.Errorf("answered with %d, and %d bytes were allocated for a body of %d", w.Code, used, len(content))
	}
}

func TestServersAreLimitedInRate(t *testing.T) {
	n := federationtest.New(t, "us.test", "them.test", "more.test")
	us := newPeer(t, n, "us.test", storetest.Open(t, t.TempDir()+"/us.db"))
	them := newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db"))
	more := newPeer(t, n, "more.test", storetest.Open(t, t.TempDir()+"/more.db"))
	us.api.pace = newPace(Rate{3, time.Hour})
	const uri = "/_matrix/federation/v1/query/profile?user_id=@nobody:us.test"
	for i, want := range []int{404, 404, 404, 429} {
		status, answer := them.request(us, http.MethodGet, uri, "", nil)
		if status != want || want == 429 && (answer["errcode"] != "M_LIMIT_EXCEEDED" || answer["retry_after_ms"].(float64) <= 0) {
			t.Errorf("request %d: %d %v", i, status, answer)
		}
	}
	if status, answer := more.request(us, http.MethodGet, uri, "", nil); status != 404 {
		t.Errorf("another server: %d %v", status, answer)
	}
	for i, want := range []int{200, 200, 200, 429} {
		w := httptest.NewRecorder()
		us.echo.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/_matrix/key/v2/server", nil))
		if w.Code != want {
			t.Errorf("request %d of no server: %d", i, w.Code)
		}
	}
}
