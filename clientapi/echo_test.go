package clientapi_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
)

// TestAnswerBeforeEcho: when /sync shows a device its own event, the answer to the request that sent it has arrived.
func TestAnswerBeforeEcho(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		room := alice.CreateRoom(map[string]any{})
		var at struct {
			Next string `json:"next_batch"`
		}
		alice.Must("GET", "/v3/sync", nil, &at)
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		answers := bufio.NewReader(conn)
		for i := range 40 {
			synced := make(chan []byte)
			go func() {
				for {
					status, body := alice.Do("GET", "/v3/sync?timeout=60000&since="+at.Next, nil)
					if err := json.Unmarshal(body, &at); err != nil || status != http.StatusOK || strings.Contains(string(body), `"m.room.message"`) {
						synced <- body
						return
					}
				}
			}()
			const content = `{"msgtype":"m.text","body":"x"}`
			fmt.Fprintf(conn, "PUT /_matrix/client/v3/rooms/%s/send/m.room.message/echo%d HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s",
				room, i, alice.Token, len(content), content)
			body := <-synced
			if !arrived(t, conn) {
				t.Errorf("message %d is shown by /sync before its request is answered", i)
			}
			answer, err := http.ReadResponse(answers, nil)
			if err != nil || answer.StatusCode != http.StatusOK {
				t.Fatalf("got %v, %v", answer, err)
			}
			var sent struct {
				ID string `json:"event_id"`
			}
			if err := json.NewDecoder(answer.Body).Decode(&sent); err != nil || !strings.Contains(string(body), sent.ID) {
				t.Fatalf("%s is not in %s: %v", sent.ID, body, err)
			}
			answer.Body.Close()
		}
	})
}

// arrived says whether there is something to read from a connection at this moment.
func arrived(t *testing.T, conn net.Conn) (is bool) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		is = err == nil && n > 0
	})
	if err != nil {
		t.Fatal(err)
	}
	return is
}
