package clientapi

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"log/slog"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
)

// TestAnswersAreCompressed: what is large is compressed for who takes it, and nothing is compressed while all
// compressors are busy. Requests are never decompressed.
func TestAnswersAreCompressed(t *testing.T) {
	a := &API{Log: slog.New(slog.DiscardHandler), limiter: newLimiter(Limits{})}
	e := echo.New()
	e.HTTPErrorHandler = a.answerError
	body := json.RawMessage(`{"x":"` + strings.Repeat("abc ", 300) + `"}`)
	a.add(e, route{GET, "/v3/large", public, none, func(*call) (any, error) { return body, nil }})
	a.add(e, route{GET, "/v3/small", public, none, func(*call) (any, error) { return nil, nil }})
	a.add(e, route{POST, "/v3/read", public, none, func(c *call) (any, error) { return nil, c.decode(&map[string]any{}) }})
	sizes := map[int]bool{}
	ask := func(path, accepted string) (encoding string) {
		t.Helper()
		r := httptest.NewRequest(GET, prefix+path, nil)
		r.Header["Accept-Encoding"] = []string{accepted}
		w := httptest.NewRecorder()
		e.ServeHTTP(w, r)
		encoding = w.Header().Get("Content-Encoding")
		if w.Header().Get("Content-Length") != strconv.Itoa(w.Body.Len()) {
			t.Errorf("%s: %d bytes, not %s", path, w.Body.Len(), w.Header().Get("Content-Length"))
		}
		if path != "/v3/large" {
			return encoding
		}
		if w.Header().Get("Vary") != "Accept-Encoding" {
			t.Error("no Vary, so that a cache may give one client what another understands")
		}
		got := w.Body.Bytes()
		if encoding == "gzip" {
			sizes[len(got)] = true
			z, err := gzip.NewReader(bytes.NewReader(got))
			if err != nil {
				t.Fatal(err)
			}
			if got, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, body) {
			t.Errorf("for %q: %s", accepted, got)
		}
		return encoding
	}
	for accepted, want := range map[string]string{
		"gzip": "gzip", "deflate, GZIP ; q=0.5": "gzip", "br,gzip;q=1": "gzip", "": "", "br": "", "gzip;q=0": "", "gzip;q=x": "", "gzipped": "",
	} {
		if got := ask("/v3/large", accepted); got != want {
			t.Errorf("%q is answered by %q", accepted, got)
		}
	}
	if got := ask("/v3/small", "gzip"); got != "" {
		t.Errorf("a small answer is compressed")
	}
	for range 100 {
		ask("/v3/large", "gzip")
	}
	if len(sizes) < 2 {
		t.Error("who sees the size of an answer knows what it would be without what others put in")
	}
	all := theCompressors()
	for range cap(all) {
		w := <-all
		defer func() { all <- w }()
	}
	if got := ask("/v3/large", "gzip"); got != "" {
		t.Error("compressed with no compressor free")
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte("{}"))
	_ = z.Close()
	r := httptest.NewRequest(POST, prefix+"/v3/read", &zipped)
	r.Header.Set("Content-Encoding", "gzip")
	w := httptest.NewRecorder()
	if e.ServeHTTP(w, r); w.Code != 400 {
		t.Errorf("a compressed request: %d %s", w.Code, w.Body)
	}
}
