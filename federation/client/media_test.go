package client_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/federation/client"
)

// multipartAnswer has the two parts of a media answer; the headers are those of the second.
func multipartAnswer(headers, body string) exchange {
	return exchange{
		header: http.Header{"Content-Type": {`multipart/mixed; boundary="b1"`}},
		answer: "--b1\r\nContent-Type: application/json\r\n\r\n{}\r\n--b1\r\n" + headers + "\r\n" + body + "\r\n--b1--\r\n",
	}
}

func TestMedia(t *testing.T) {
	handler := &delegate{}
	w := newWorld(t, handler)
	const headers = "Content-Type: text/plain\r\nContent-Disposition: attachment; filename=\"a.txt\"\r\n"
	for _, c := range []struct {
		uri  string
		call func() (*client.Media, error)
	}{
		{"/media/download/M_1-a", func() (*client.Media, error) { return w.client.Download(t.Context(), one, "M_1-a", 5) }},
		{"/media/thumbnail/M?animated=true&height=3&method=crop&width=2", func() (*client.Media, error) {
			return w.client.Thumbnail(t.Context(), one, "M", client.Thumbnail{Width: 2, Height: 3, Method: "crop", Animated: true}, 5)
		}},
		{"/media/thumbnail/M?height=3&width=2", func() (*client.Media, error) {
			return w.client.Thumbnail(t.Context(), one, "M", client.Thumbnail{Width: 2, Height: 3}, 5)
		}},
	} {
		e := multipartAnswer(headers, "hello")
		e.method, e.uri = "GET", f1+c.uri
		handler.set(e.serve(t, one, w.client.Key.Public()))
		media, err := c.call()
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(media.Body)
		if string(body) != "hello" || err != nil || media.ContentType != "text/plain" || media.ContentDisposition != `attachment; filename="a.txt"` {
			t.Errorf("got %q, %v, %+v", body, err, media)
		}
		if err := media.Body.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestMediaIsBounded(t *testing.T) {
	handler := &delegate{}
	w := newWorld(t, handler)
	handler.set(http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
		e := multipartAnswer("", "hello!")
		out.Header().Set("Content-Type", e.header.Get("Content-Type"))
		_, _ = io.WriteString(out, e.answer)
	}))
	for limit, ok := range map[int64]bool{5: false, 6: true} {
		media, err := w.client.Download(t.Context(), one, "M", limit)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(media.Body)
		if (err == nil) != ok || errors.Is(err, client.ErrTooLarge) == ok || int64(len(body)) != limit {
			t.Errorf("limit %d: got %q, %v", limit, body, err)
		}
		_ = media.Body.Close()
	}
}

// Media may live outside the federation: it is fetched there without our signature, over HTTPS, and only
// from addresses that the guard allows.
func TestMediaElsewhere(t *testing.T) {
	handler := &delegate{}
	w := newWorld(t, handler)
	location := ""
	handler.set(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/file":
			if r.Header.Get("Authorization") != "" {
				t.Error("the signature went elsewhere")
			}
			out.Header().Set("Content-Type", "image/png")
			_, _ = io.WriteString(out, "picture")
		case "/moved":
			http.Redirect(out, r, fmt.Sprintf("https://files.test:%d/file", w.port), http.StatusFound)
		case "/insecure":
			http.Redirect(out, r, fmt.Sprintf("http://files.test:%d/file", w.port), http.StatusFound)
		case "/loop":
			http.Redirect(out, r, "/loop", http.StatusFound)
		case "/gone":
			http.NotFound(out, r)
		default:
			e := multipartAnswer("Location: "+location+"\r\n", "")
			out.Header().Set("Content-Type", e.header.Get("Content-Type"))
			_, _ = io.WriteString(out, e.answer)
		}
	}))
	at := func(path string) string { return fmt.Sprintf("https://files.test:%d%s", w.port, path) }
	for _, location = range []string{at("/file"), at("/moved")} {
		media, err := w.client.Download(t.Context(), one, "M", 7)
		if err != nil {
			t.Fatal(location, err)
		}
		if body, err := io.ReadAll(media.Body); string(body) != "picture" || err != nil || media.ContentType != "image/png" {
			t.Errorf("%s: got %q, %v, %+v", location, body, err, media)
		}
		_ = media.Body.Close()
	}
	for _, location = range []string{
		at("/insecure"), at("/loop"), at("/gone?secret"), "http://files.test/file?secret", "/file", "https://10.0.0.1/?secret",
		"https://liar.test:1/?secret", "file:///etc/passwd", "https://%zz?secret",
	} {
		_, err := w.client.Download(t.Context(), one, "M", 7)
		if err == nil {
			t.Errorf("%s was fetched", location)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the address, which may be secret, is in the error: %v", err)
		}
	}
}

func TestMalformedMedia(t *testing.T) {
	handler := &delegate{}
	w := newWorld(t, handler)
	good := multipartAnswer("", "x")
	for what, e := range map[string]exchange{
		"no type":     {answer: good.answer},
		"other type":  {header: http.Header{"Content-Type": {"text/plain"}}, answer: good.answer},
		"no boundary": {header: http.Header{"Content-Type": {"multipart/mixed"}}, answer: good.answer},
		"one part":    {header: good.header, answer: "--b1\r\n\r\n{}\r\n--b1--\r\n"},
		"no parts":    {header: good.header, answer: "--b1--\r\n"},
		"nothing":     {header: good.header},
		"too much {}": {header: good.header, answer: "--b1\r\n\r\n" + strings.Repeat("{", 1<<20+1) + "\r\n--b1\r\n\r\nx\r\n--b1--\r\n"},
	} {
		t.Run(what, func(t *testing.T) {
			handler.set(http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
				for name, values := range e.header {
					out.Header()[name] = values
				}
				_, _ = io.WriteString(out, e.answer)
			}))
			if _, err := w.client.Download(t.Context(), one, "M", 7); !errors.Is(err, client.ErrMalformed) {
				t.Errorf("got %v", err)
			}
		})
	}
	for _, mediaID := range []string{"", "..", "a/b", "a?b", strings.Repeat("a", 256)} {
		if _, err := w.client.Download(t.Context(), one, mediaID, 7); err == nil {
			t.Errorf("media ID %q was asked for", mediaID)
		}
	}
}

// TestSlowAnswersEnd: a server that begins an answer and lets it trickle is not waited for.
func TestSlowAnswersEnd(t *testing.T) {
	d := &delegate{}
	w := newWorld(t, d)
	w.client.Patience = 100 * time.Millisecond
	trickle := func(kind, begin string) {
		d.set(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			_, _ = io.WriteString(w, begin)
			for tick := time.NewTicker(10 * time.Millisecond); ; {
				select {
				case <-tick.C:
					_, _ = io.WriteString(w, " ")
					_ = http.NewResponseController(w).Flush()
				case <-r.Context().Done():
					return
				}
			}
		}))
	}
	trickle("application/json", `{`)
	if _, err := w.client.Profile(t.Context(), "one.test", "@a:one.test", ""); !errors.Is(err, client.ErrSlow) {
		t.Errorf("a profile: %v", err)
	}
	trickle(`multipart/mixed; boundary="b1"`, "--b1\r\n\r\n{}\r\n--b1\r\nContent-Type: text/plain\r\n\r\n"+strings.Repeat("x", 1<<20))
	m, err := w.client.Download(t.Context(), "one.test", "M", 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Body.Close()
	if _, err := io.Copy(io.Discard, m.Body); !errors.Is(err, client.ErrSlow) {
		t.Errorf("media: %v", err)
	}
}
