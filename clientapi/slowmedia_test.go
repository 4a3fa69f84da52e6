package clientapi

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/media"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

// The wait for more of an upload ends when it is cut, also if another piece came meanwhile.
func TestUploadsAreCut(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		ended := make(chan error, 1)
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body := &arriving{Reader: r.Body, control: http.NewResponseController(w), began: time.Now()}
			buffer := make([]byte, 1)
			if _, err := io.ReadFull(body, buffer); err != nil {
				t.Errorf("%s: the first piece: %v", name, err)
			}
			go body.cut()
			for {
				if _, err := body.Read(buffer); err != nil {
					ended <- err
					return
				}
			}
		}))
		server.EnableHTTP2 = http2
		server.StartTLS()
		more, w := io.Pipe()
		go func() {
			if r, err := server.Client().Post(server.URL, "text/plain", more); err == nil {
				_ = r.Body.Close()
			}
		}()
		if _, err := w.Write([]byte("xy")); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: it ended with %v", name, err)
		}
		_ = w.Close()
		server.Close()
	}
}

// One user has a bounded number of downloads that nobody reads, of uploads that do not come, and of those that wait; others do not
// notice.
func TestSlowMediaOfOneUserIsBounded(t *testing.T) {
	const size = 16 << 20
	test := newTester(t, storetest.Open(t, filepath.Join(t.TempDir(), "test.db")), func(a *API) {
		a.Media = &media.Service{
			Server: a.Server, Store: a.Store, Dir: t.TempDir(), Log: a.Log, MaxUpload: size, MaxRemote: 1000, MaxPixels: 1000,
		}
	})
	_, alice := test.register("alice")
	_, bob := test.register("bob")
	path := test.upload(alice, "large", "", strings.Repeat("x", size))
	server := httptest.NewServer(test.echo)
	t.Cleanup(server.Close)
	download := "/_matrix/client/v1/media/download" + path
	for _, line := range []string{"GET " + download, "POST /_matrix/media/v3/upload"} {
		refused := make(chan string, 1000)
		for range 200 {
			c, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
			body := ""
			if strings.HasPrefix(line, "POST") {
				body = "Content-Length: 1000\r\n"
			}
			if _, err := fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %s\r\n%s\r\n", line, alice, body); err != nil {
				t.Fatal(err)
			}
			go func() {
				head := bufio.NewReader(c)
				if status, _ := head.ReadString('\n'); strings.Contains(status, " 429 ") {
					rest, _ := io.ReadAll(head)
					refused <- string(rest)
				}
			}()
		}
		waittest.Until(t, "one is refused", func() bool { return len(refused) > 0 })
		if answer := <-refused; !strings.Contains(answer, "M_LIMIT_EXCEEDED") || !strings.Contains(answer, "retry_after_ms") {
			t.Errorf("%s is refused with %s", line, answer)
		}
		if w := test.raw(GET, download, bob, "", nil); w.Code != 200 || w.Body.Len() != size {
			t.Errorf("another user got %d, %d bytes", w.Code, w.Body.Len())
		}
		if w := test.raw(POST, "/_matrix/media/v3/upload", bob, "hi", nil); w.Code != 200 {
			t.Errorf("another user's upload: %d", w.Code)
		}
	}
}
