package clientapi_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

// TestUnreadAnswersMakeRoom: a large answer that a client does not read is lost once others need the room, and does not
// pass for the whole, whether it is held or goes out in pieces.
func TestUnreadAnswersMakeRoom(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob := s.Register("alice"), s.Register("bob")
		room, bobs := largeRoom(alice, 14<<20), largeRoom(bob, 1<<20)
		for _, path := range []string{
			"/context/" + string(alice.Send(room, "m.x", map[string]any{})) + "?limit=0", "/initialSync?limit=1", "/state",
		} {
			c, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = fmt.Fprintf(c, "GET /_matrix/client/v3/rooms/%s%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", room, path, alice.Token)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := http.ReadResponse(bufio.NewReader(c), nil) // its head: from now on it is lost if need be
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			stage := &s.Sync.Answers
			held := stage.Held()
			if held < 4<<20 {
				t.Errorf("%s: %d bytes are charged", path, held)
			}
			rest := stage.Charge("the rest", nil)
			if err := rest.Grow(stage.All - held + load.Free); err != nil {
				t.Fatal(err)
			}
			bob.Must("GET", "/v3/rooms/"+string(bobs)+"/initialSync?limit=1", nil, nil)
			if n, err := io.Copy(io.Discard, answer.Body); err == nil {
				t.Errorf("%s: who made room got the whole of %d bytes", path, n)
			}
			rest.End()
			waittest.Until(t, "no answer takes up anything", func() bool { return stage.Held() == 0 })
		}
	})
}
