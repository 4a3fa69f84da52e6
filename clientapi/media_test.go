package clientapi

import (
	"bytes"
	"context"
	"image"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/media"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// raw makes a request with a body that is no JSON, and returns the answer as it is.
func (t *tester) raw(method, path, token, body string, header http.Header) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for name, values := range header {
		r.Header[name] = values
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	t.echo.ServeHTTP(w, r)
	return w
}

func newMediaTester(t *testing.T) *tester {
	t.Helper()
	return newTester(t, storetest.Open(t, filepath.Join(t.TempDir(), "test.db")), func(a *API) {
		a.Media = &media.Service{
			Server: a.Server, Store: a.Store, Dir: t.TempDir(), Log: a.Log, MaxUpload: 1000, MaxRemote: 1000, MaxPixels: 1000,
		}
	})
}

// upload uploads and returns the end of the paths that the media has. Without a content type it is sent as JSON is.
func (t *tester) upload(token, name, contentType, body string) (path string) {
	t.Helper()
	a := t.call(POST, "/_matrix/media/v3/upload?filename="+url.QueryEscape(name), token, body)
	uri, _ := t.want(a, 200, "").body["content_uri"].(string)
	if contentType != "" {
		w := t.raw(POST, "/_matrix/media/v3/upload?filename="+url.QueryEscape(name), token, body, http.Header{"Content-Type": {contentType}})
		_, uri, _ = strings.Cut(strings.TrimSuffix(w.Body.String(), `"}`), `:"`)
	}
	path, ok := strings.CutPrefix(uri, "mxc:/")
	if !ok {
		t.Fatalf("uploaded as %q", uri)
	}
	return path
}

func TestUploadAndDownload(t *testing.T) {
	test := newMediaTester(t)
	_, token := test.register("alice")
	path := test.upload(token, "ünder cover.txt", "text/plain; charset=utf-8", "hello")
	const download = "/_matrix/client/v1/media/download"

	w := test.raw(GET, download+path, token, "", nil)
	if w.Code != 200 || w.Body.String() != "hello" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/plain; charset=utf-8", "Content-Disposition": "inline; filename*=utf-8''%C3%BCnder%20cover.txt",
		"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "cross-origin", "Content-Security-Policy": mediaPolicy, "Content-Length": "5",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	if w := test.raw(GET, download+path, token, "", http.Header{"Range": {"bytes=1-2"}}); w.Code != 206 || w.Body.String() != "el" {
		t.Errorf("a range: %d %s", w.Code, w.Body)
	}
	if w := test.raw(GET, download+path, token, "", http.Header{"If-None-Match": {w.Header().Get("ETag")}}); w.Code != 304 {
		t.Errorf("unchanged: %d", w.Code)
	}
	if got := test.raw(GET, download+path+"/other.txt", token, "", nil).Header().Get("Content-Disposition"); got != "inline; filename=other.txt" {
		t.Errorf("with another name: %s", got)
	}
	if w := test.raw(GET, "/_matrix/media/r0/download"+path, token, "", nil); w.Code != 200 {
		t.Errorf("at an old path: %d", w.Code)
	}
	test.want(test.call(GET, download+path, "", nil), 401, "M_MISSING_TOKEN")
	test.want(test.call(GET, download+"/example.org/unknown", token, nil), 404, "M_NOT_FOUND")
	test.want(test.call(GET, download+"/elsewhere.test/unknown", token, nil), 404, "M_NOT_FOUND")
	test.want(test.call(GET, download+"/no%20server/unknown", token, nil), 400, "M_INVALID_PARAM")
	test.want(test.call(GET, download+"/example.org/..%2F..%2Fx", token, nil), 404, "M_NOT_FOUND")
	test.want(test.call(POST, "/_matrix/media/v3/upload", token, strings.Repeat("x", 1001)), 413, "M_TOO_LARGE")
	test.want(test.call(POST, "/_matrix/media/v3/upload", "", "x"), 401, "M_MISSING_TOKEN")
	for _, config := range []string{"/_matrix/media/v3/config", "/_matrix/client/v1/media/config"} {
		if got := test.call(GET, config, token, nil).body["m.upload.size"]; got != 1000. {
			t.Errorf("%s: %v", config, got)
		}
	}
	test.want(test.call(GET, "/_matrix/client/v1/media/preview_url?url=https://x.test/", token, nil), 404, "M_UNRECOGNIZED")
	test.want(test.call(GET, "/_matrix/client/v1/media/preview_url", token, nil), 400, "M_MISSING_PARAM")
}

// elsewhere counts the downloads from another server.
type elsewhere struct{ asked int }

func (e *elsewhere) Download(context.Context, id.ServerName, string, int64) (*media.RemoteFile, error) {
	e.asked++
	return &media.RemoteFile{ContentType: "text/plain", Body: io.NopCloser(strings.NewReader("far"))}, nil
}

func TestStrangersGetNoMediaUnlessAllowed(t *testing.T) {
	test := newMediaTester(t)
	remote := &elsewhere{}
	test.api.Media.Remote = remote
	_, token := test.register("alice")
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 20, 20))); err != nil {
		t.Fatal(err)
	}
	path := test.upload(token, "", "", picture.String())
	const old = "/_matrix/media/v3"
	thumbnail := old + "/thumbnail" + path + "?width=32&height=32"
	test.want(test.call(GET, old+"/download"+path, "", nil), 404, "M_NOT_FOUND")
	test.want(test.call(GET, thumbnail, "", nil), 404, "M_NOT_FOUND")

	test.api.Media.Unauthenticated = true
	if w := test.raw(GET, old+"/download"+path, "", "", nil); w.Code != 200 {
		t.Errorf("what was uploaded here: %d", w.Code)
	}
	test.want(test.call(GET, thumbnail, "", nil), 404, "M_NOT_FOUND") // it has yet to be drawn
	if w := test.raw(GET, thumbnail, token, "", nil); w.Code != 200 {
		t.Errorf("a thumbnail for a user: %d", w.Code)
	}
	if w := test.raw(GET, thumbnail, "", "", nil); w.Code != 200 {
		t.Errorf("a thumbnail that is there: %d", w.Code)
	}
	for range 2 { // not even what a user has had fetched meanwhile
		test.want(test.call(GET, old+"/download/far.test/x", "", nil), 404, "M_NOT_FOUND")
		test.want(test.call(GET, old+"/thumbnail/far.test/x?width=32&height=32", "", nil), 404, "M_NOT_FOUND")
		if w := test.raw(GET, old+"/download/far.test/x", token, "", nil); w.Body.String() != "far" {
			t.Errorf("a user gets %d %s", w.Code, w.Body)
		}
	}
	if remote.asked != 1 {
		t.Errorf("the other server was asked %d times", remote.asked)
	}
	pending := test.want(test.call(POST, "/_matrix/media/v1/create", token, nil), 200, "").body["content_uri"].(string)
	test.want(test.call(GET, old+"/download"+strings.TrimPrefix(pending, "mxc:/"), "", nil), 504, "M_NOT_YET_UPLOADED") // at once
}

// slow is a connection on which each read takes a time and gives a number of bytes, until the deadline.
type slow struct {
	*httptest.ResponseRecorder
	every    time.Duration
	gives    int
	sleep    func(time.Duration)
	deadline time.Time
}

func (s *slow) SetReadDeadline(t time.Time) error {
	s.deadline = t
	return nil
}

func (s *slow) Read(p []byte) (int, error) {
	s.sleep(min(s.every, time.Until(s.deadline)))
	if !time.Now().Before(s.deadline) {
		return 0, os.ErrDeadlineExceeded
	}
	return min(s.gives, len(p)), nil
}

func TestUploadsMayBeSlowButHaveToCome(t *testing.T) {
	for _, test := range []struct {
		name  string
		every time.Duration
		gives int
		size  int64
		after time.Duration // when it is ended; 0: it comes through
	}{
		{"steady for ten minutes", time.Second, 2 * uploadSlowest, 600 * 2 * uploadSlowest, 0},
		{"nothing", time.Hour, 1, 1, uploadPause},
		{"drop by drop", uploadPause / 3, 1, 1000, uploadPause},
		{"a pause", uploadPause, 1 << 20, 10 << 20, uploadPause},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			from := &slow{ResponseRecorder: httptest.NewRecorder(), every: test.every, gives: test.gives}
			from.sleep = time.Sleep // of the bubble's clock
			_, err := io.CopyN(io.Discard, &arriving{Reader: from, control: http.NewResponseController(from), began: began}, test.size)
			if f := asFailure(err); (test.after == 0) != (err == nil) || err != nil && (f == nil || f.status != 408 || time.Since(began) != test.after) {
				t.Errorf("%s: %v after %v", test.name, err, time.Since(began))
			}
		})
	}
}

func TestUploadLater(t *testing.T) {
	test := newMediaTester(t)
	_, alice := test.register("alice")
	_, bob := test.register("bob")
	created := test.want(test.call(POST, "/_matrix/media/v1/create", alice, nil), 200, "").body
	uri, _ := created["content_uri"].(string)
	path := strings.TrimPrefix(uri, "mxc:/")
	if created["unused_expires_at"] == nil {
		t.Errorf("got %v", created)
	}
	test.want(test.call(GET, "/_matrix/client/v1/media/download"+path+"?timeout_ms=0", alice, nil), 504, "M_NOT_YET_UPLOADED")
	test.want(test.call(PUT, "/_matrix/media/v3/upload"+path, bob, "x"), 403, "M_FORBIDDEN")
	test.want(test.call(PUT, "/_matrix/media/v3/upload"+path, alice, "x"), 200, "")
	test.want(test.call(PUT, "/_matrix/media/v3/upload"+path, alice, "x"), 409, "M_CANNOT_OVERWRITE_MEDIA")
	test.api.Media.UserQuota = 1
	test.want(test.call(POST, "/_matrix/media/v3/upload", alice, "x"), 403, "M_FORBIDDEN")
	test.want(test.call(PUT, "/_matrix/media/v3/upload/elsewhere.test/x", alice, "x"), 404, "M_NOT_FOUND")
	if w := test.raw(GET, "/_matrix/client/v1/media/download"+path, alice, "", nil); w.Body.String() != "x" {
		t.Errorf("got %s", w.Body)
	}
}

func TestThumbnail(t *testing.T) {
	test := newMediaTester(t)
	_, token := test.register("alice")
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 20, 20))); err != nil {
		t.Fatal(err)
	}
	path := "/_matrix/client/v1/media/thumbnail" + test.upload(token, "", "", picture.String())
	w := test.raw(GET, path+"?width=32&height=32&method=scale", token, "", nil)
	if _, err := png.Decode(w.Body); err != nil || w.Header().Get("Content-Type") != "image/png" {
		t.Errorf("%v, %v", w.Header(), err)
	}
	test.want(test.call(GET, path+"?width=32", token, nil), 400, "M_MISSING_PARAM")
	test.want(test.call(GET, path+"?width=32&height=x", token, nil), 400, "M_INVALID_PARAM")
	text := "/_matrix/client/v1/media/thumbnail" + test.upload(token, "", "", "hello")
	test.want(test.call(GET, text+"?width=32&height=32", token, nil), 400, "M_UNKNOWN")
}
