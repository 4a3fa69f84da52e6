package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

const (
	alice id.UserID     = "@alice:one.test"
	bob   id.UserID     = "@bob:one.test"
	there id.ServerName = "two.test"
)

func crowded(t *testing.T) *Service {
	t.Helper()
	s := &Service{
		Server: "one.test", Store: storetest.Open(t, filepath.Join(t.TempDir(), "test.db")), Dir: filepath.Join(t.TempDir(), "media"),
		Log: slog.New(slog.DiscardHandler), MaxUpload: 1 << 20, MaxRemote: 1 << 20, MaxPixels: 1 << 20,
	}
	s.start()
	return s
}

// until waits for a state of places.
func until(t *testing.T, what string, p *places, reached func() bool) {
	t.Helper()
	waittest.Until(t, what, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return reached()
	})
}

// Drawings count for the user or server who asks, and those that nobody waits for are not made.
func TestDrawingsCountForWhoAsks(t *testing.T) {
	s := crowded(t)
	raw := asPNG(t, image.NewGray(image.Rect(0, 0, 200, 100)))
	mediaID, err := s.Save(t.Context(), Upload{User: alice, Size: -1, Body: bytes.NewReader(raw)})
	if err != nil {
		t.Fatal(err)
	}
	p := &s.drawings.places
	full := []*holder{take(t, p, "@x", ""), take(t, p, "@x", "")}
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan error)
	want := Wanted{Origin: s.Server, ID: mediaID}
	for user, sizes := range map[id.UserID][]int{alice: {32, 96}, bob: {96}} {
		for _, n := range sizes {
			go func() {
				w := want
				w.User = user
				_, err := s.Thumbnail(ctx, w, Size{Width: n, Height: n, Crop: true})
				gone <- err
			}()
		}
	}
	go func() {
		r := httptest.NewRequestWithContext(ctx, "GET", "/?width=96&height=96&method=crop", nil)
		gone <- s.ServeFederation(httptest.NewRecorder(), r, there, mediaID, true)
	}()
	until(t, "four wait", p, func() bool { return len(p.line) == 4 })
	if want := map[string]int{string(alice): 2, string(bob): 1, string(there): 1}; !maps.Equal(p.waiting, want) {
		t.Errorf("waiting are %v", p.waiting)
	}
	leave()
	for range 4 {
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("who went away got %v", err)
		}
	}
	for _, h := range full {
		p.leave(h)
	}
	if len(p.held)+len(s.drawings.open) != 0 {
		t.Errorf("drawn for nobody is %v", s.drawings.open)
	}
	want.User = bob
	c, err := s.Thumbnail(t.Context(), want, Size{Width: 96, Height: 96, Crop: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Hash == "" || c.ContentType != "image/png" {
		t.Errorf("got %+v", c)
	}
}

// Decoding ends when nobody waits any more.
func TestDecodingEnds(t *testing.T) {
	u, err := examine(bytes.NewReader(asPNG(t, image.NewGray(image.Rect(0, 0, 200, 100)))), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	u.ReadSeeker = untilDone{u.ReadSeeker, ctx}
	stop()
	if _, err := u.decode(); err == nil {
		t.Error("it was decoded")
	}
}

// web answers for one host and never for others.
type web struct{}

func (web) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Hostname() != "good.test" {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/html"}}, Request: r,
		Body: io.NopCloser(strings.NewReader("<title>hi</title>")),
	}, nil
}

type far struct{}

func (far) Download(context.Context, id.ServerName, string, int64) (*RemoteFile, error) {
	return &RemoteFile{Body: io.NopCloser(strings.NewReader("far"))}, nil
}

// Previews of hosts that never answer keep neither other users' previews nor media of other servers waiting.
func TestPreviewsCountForTheirUser(t *testing.T) {
	s := crowded(t)
	s.Web, s.Remote = &http.Client{Transport: web{}}, far{}
	p := &s.previews.places
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan error)
	ask := func(user id.UserID, n int) {
		go func() {
			_, err := s.Preview(ctx, user, fmt.Sprintf("http://%d.%s/", n, strings.ReplaceAll(string(user[1:]), ":", ".")))
			ended <- err
		}()
	}
	most := p.each + p.queue
	for n := range most + 5 {
		ask(alice, n)
	}
	for range 5 {
		if err := <-ended; !errors.Is(err, ErrCrowded) {
			t.Errorf("more than may wait: %v", err)
		}
	}
	for n := range 3 * p.each { // and so do others
		ask(id.UserID(fmt.Sprint("@u", n/p.each, ".test")), n)
	}
	until(t, "all places are taken, and as many wait as may", p, func() bool { return len(p.held) == p.most && len(p.line) == p.queue })
	if _, err := s.Preview(t.Context(), bob, "http://good.test/"); err != nil {
		t.Errorf("another user's preview: %v", err)
	}
	if err := <-ended; !errors.Is(err, ErrCrowded) {
		t.Errorf("whoever had the most got %v", err)
	}
	c, err := s.Open(t.Context(), Wanted{Origin: there, ID: "M", User: bob})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	leave()
	for range most + 3*p.each - 1 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("who went away got %v", err)
		}
	}
}
