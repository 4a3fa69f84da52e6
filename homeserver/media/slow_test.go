package media

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// withContent has content that no connection holds unread.
func withContent(t *testing.T) (s *Service, mediaID string, size int) {
	t.Helper()
	s = crowded(t)
	s.MaxUpload = 32 << 20
	mediaID, err := s.Save(t.Context(), Upload{User: alice, Size: -1, Body: bytes.NewReader(make([]byte, 16<<20))})
	if err != nil {
		t.Fatal(err)
	}
	return s, mediaID, 16 << 20
}

// serveAs answers each request with the content, for who it names.
func serveAs(t *testing.T, s *Service, mediaID string, http2 bool) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := r.URL.Query().Get("who")
		if r.URL.Path == "/peer" {
			if err := s.ServeFederation(w, r, id.ServerName(who), mediaID, false); err != nil {
				http.Error(w, err.Error(), http.StatusTooManyRequests)
			}
			return
		}
		wanted := Wanted{Origin: s.Server, ID: mediaID, User: id.UserID(who)}
		c, err := s.Open(r.Context(), wanted)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		body, leave, err := s.Enter(w, r, wanted, c)
		if err != nil {
			http.Error(w, err.Error(), http.StatusTooManyRequests)
			return
		}
		defer leave()
		http.ServeContent(w, r, "", time.Time{}, body)
	}))
	server.EnableHTTP2 = http2
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// Downloads that nobody reads make room for those of others: the oldest of who has the most breaks off.
func TestUnreadDownloadsMakeRoom(t *testing.T) {
	s, mediaID, size := withContent(t)
	s.downloads.most, s.downloads.each = 4, 3
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		for _, path := range []string{"/user", "/peer"} {
			server := serveAs(t, s, mediaID, http2)
			ask := func(who string) *http.Response {
				t.Helper()
				r, err := server.Client().Get(server.URL + path + "?who=" + who)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = r.Body.Close() })
				return r
			}
			first := ask("many")
			rest := []*http.Response{ask("many"), ask("many"), ask("other")}
			until(t, "all places are taken", &s.downloads, func() bool { return len(s.downloads.held) == 4 })
			if whole, err := io.Copy(io.Discard, ask("another").Body); err != nil || whole < int64(size) {
				t.Errorf("%s, %s: who came later got %d bytes: %v", name, path, whole, err)
			}
			if n, err := io.Copy(io.Discard, first.Body); err == nil || n >= int64(size) {
				t.Errorf("%s, %s: who had the most got all of the oldest", name, path)
			}
			for _, r := range rest {
				if n, err := io.Copy(io.Discard, r.Body); err != nil || n < int64(size) {
					t.Errorf("%s, %s: another one got %d bytes: %v", name, path, n, err)
				}
			}
			server.Close()
			until(t, "no place is taken", &s.downloads, func() bool { return len(s.downloads.held)+len(s.downloads.by) == 0 })
		}
	}
}

// One user, peer or address has a number of downloads at a time; of more, as many wait for a while as may.
func TestDownloadsAreCounted(t *testing.T) {
	s, mediaID, _ := withContent(t)
	enter := func(ctx context.Context, wanted Wanted) (leave func(), err error) {
		t.Helper()
		wanted.Origin, wanted.ID = s.Server, mediaID
		c, err := s.Open(t.Context(), wanted)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_, leave, err = s.Enter(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil), wanted, c)
		return leave, err
	}
	for _, wanted := range []Wanted{{User: alice}, {Peer: there}, {Address: "192.0.2.1"}} {
		var leaves []func()
		for range downloadsEach {
			leave, err := enter(stopped(), wanted)
			if err != nil {
				t.Fatal(err)
			}
			leaves = append(leaves, leave)
		}
		if _, err := enter(stopped(), wanted); !errors.Is(err, context.Canceled) {
			t.Errorf("%s has more than one may: %v", wanted.who(), err)
		}
		leaves[0]()
		leave, err := enter(stopped(), wanted)
		if err != nil {
			t.Errorf("%s after one has ended: %v", wanted.who(), err)
		}
		for _, leave := range append(leaves[1:], leave) {
			leave()
		}
	}
}

func TestPlacesAreNotAwaitedForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := places{most: 1, each: 1, queue: 1}
		held, err := p.take(t.Context(), "@a")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := p.take(t.Context(), "@a"); !errors.Is(err, ErrCrowded) || time.Since(began) != linePatience {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		time.AfterFunc(time.Second, func() { p.leave(held) })
		if _, err := p.take(t.Context(), "@a"); err != nil {
			t.Errorf("one that ends in time: %v", err)
		}
	})
}

// Uploads that come slowly make room for those of others.
func TestSlowUploadsMakeRoom(t *testing.T) {
	s := crowded(t)
	s.uploads.most, s.uploads.each = 3, 3
	gone := make(chan error, 3)
	var bodies []*io.PipeWriter
	for i := range 3 {
		body, w := io.Pipe()
		bodies = append(bodies, w)
		go func() {
			_, err := s.Save(t.Context(), Upload{User: alice, Size: -1, Body: body, Cut: func() { _ = body.CloseWithError(io.ErrClosedPipe) }})
			gone <- err
		}()
		until(t, "it has begun", &s.uploads, func() bool { return len(s.uploads.held) == i+1 })
	}
	if _, err := s.Save(t.Context(), Upload{User: bob, Size: -1, Body: bytes.NewReader([]byte("hi"))}); err != nil {
		t.Errorf("another user: %v", err)
	}
	if err := <-gone; !errors.Is(err, ErrCrowded) {
		t.Errorf("the oldest of who had all got %v", err)
	}
	if _, err := bodies[0].Write([]byte("x")); err == nil {
		t.Error("another one than the oldest made room")
	}
	for _, w := range bodies[1:] {
		_ = w.Close()
		if err := <-gone; err != nil {
			t.Errorf("another one of theirs: %v", err)
		}
	}
}
