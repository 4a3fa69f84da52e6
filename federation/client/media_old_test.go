package client_test

import (
	"io"
	"net/http"
	"testing"
)

// Servers that do not know the signed endpoint are asked for media without our signature, others are not.
func TestMediaOfOldServers(t *testing.T) {
	handler := &delegate{}
	w := newWorld(t, handler)
	for _, test := range []struct {
		status int
		answer string
		old    bool
	}{
		{http.StatusNotFound, `{"errcode":"M_UNRECOGNIZED"}`, true},
		{http.StatusNotFound, `nothing here`, true},
		{http.StatusBadRequest, `what?`, true},
		{http.StatusNotFound, `{"errcode":"M_NOT_FOUND"}`, false},
		{http.StatusBadGateway, `down`, false},
	} {
		handler.set(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
			if r.URL.RequestURI() != "/_matrix/media/v3/download/one.test/M?allow_remote=false" {
				out.WriteHeader(test.status)
				_, _ = io.WriteString(out, test.answer)
				return
			}
			if r.Header.Get("Authorization") != "" {
				t.Error("the request is signed")
			}
			out.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(out, "hello")
		}))
		media, err := w.client.Download(t.Context(), one, "M", 5)
		if (err == nil) != test.old {
			t.Errorf("%+v: %v", test, err)
		}
		if err != nil {
			continue
		}
		if body, err := io.ReadAll(media.Body); string(body) != "hello" || err != nil || media.ContentType != "text/plain" {
			t.Errorf("got %q, %v, %+v", body, err, media)
		}
		_ = media.Body.Close()
	}
}
