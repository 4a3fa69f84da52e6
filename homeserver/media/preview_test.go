package media_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/securecomm/securecomm/homeserver/media"
)

func TestPreview(t *testing.T) {
	s, ctx := service(t, sqlite(t)), context.Background()
	var pages atomic.Int32
	picture := pngOf(t, 30, 20)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pages.Add(1)
		w.Header().Set("Content-Type", "text/html; charset=iso-8859-1")
		switch r.URL.Path {
		case "/page":
			fmt.Fprint(w, `<html><head><title>Not this</title><meta property="og:title" content="Caf`+"\xe9"+`  noir" />
				<meta property="og:image" content="pic.png"><meta name="description" content="`+strings.Repeat("x", 2000)+`">
				<meta property="og:video" content="https://tracker.test/"></head><body><meta property="og:type" content="late"></body>`)
		case "/bare":
			fmt.Fprint(w, `<title>Only a title</title><meta property="og:image" content="file:///etc/passwd">`)
		case "/pic.png":
			w.Header().Set("Content-Type", "image/png")
			fmt.Fprint(w, picture)
		case "/moved":
			http.Redirect(w, r, "/bare", http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/away":
			http.Redirect(w, r, "ftp://files.test/", http.StatusFound)
		case "/empty":
		case "/pdf":
			w.Header().Set("Content-Type", "application/pdf")
		default:
			http.NotFound(w, r)
		}
	}))
	defer web.Close()
	if _, err := s.Preview(ctx, alice, web.URL+"/page"); !errors.Is(err, media.ErrNoPreviews) {
		t.Errorf("previews are off: %v", err)
	}
	s.Web = web.Client()

	p, err := s.Preview(ctx, alice, web.URL+"/page#part")
	if err != nil {
		t.Fatal(err)
	}
	image, _ := p.Properties["og:image"].(string)
	description, _ := p.Properties["og:description"].(string)
	if p.Properties["og:title"] != "Café noir" || p.Properties["og:image:width"] != 30 || p.Properties["og:image:height"] != 20 ||
		p.Properties["matrix:image:size"] != int64(len(picture)) || len(description) > 1010 || len(p.Properties) != 7 {
		t.Errorf("got %v", p.Properties)
	}
	if mediaID, ok := strings.CutPrefix(image, "mxc://one.test/"); !ok || read(t, s, media.Wanted{Origin: here, ID: mediaID}) != picture {
		t.Errorf("the image is %q", image)
	}
	before := pages.Load()
	if _, err := s.Preview(ctx, alice, web.URL+"/page"); err != nil || pages.Load() != before {
		t.Errorf("the second preview asked again, or %v", err)
	}
	for path, want := range map[string]string{"/bare": "og:title", "/moved": "og:title", "/pic.png": "og:image"} {
		if p, err := s.Preview(ctx, alice, web.URL+path); err != nil || p.Properties[want] == nil {
			t.Errorf("%s: %v, %v", path, p, err)
		}
	}
	for _, path := range []string{"/gone", "/loop", "/away", "/empty", "/pdf"} {
		if _, err := s.Preview(ctx, alice, web.URL+path); !errors.Is(err, media.ErrPreviewFailed) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, address := range []string{"", "ftp://x.test/", "file:///etc/passwd", "http://", "https://user:pass@x.test/", "%zz", "http://x.test/" + strings.Repeat("x", 2048)} {
		if _, err := s.Preview(ctx, alice, address); !errors.Is(err, media.ErrBadAddress) {
			t.Errorf("%s: %v", address, err)
		}
	}
}
