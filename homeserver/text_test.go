package homeserver_test

import (
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
)

// Text that a database does not take is the client's fault on both, and breaks nothing that comes after it.
func TestTextThatCannotBeStored(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		room := alice.CreateRoom(map[string]any{})
		data := "/v3/user/" + string(alice.ID) + "/account_data/"
		for _, name := range []string{"a%00b", "a%ffb"} {
			for _, path := range []string{data + name, "/v3/rooms/" + string(room) + "/send/m.room.message/" + name} {
				body := map[string]any{"msgtype": "m.text", "body": "hello"}
				status, answer := alice.Do("PUT", path, body)
				if status != 400 || strings.Contains(string(answer), "INSERT") || strings.Contains(string(answer), "SELECT") {
					t.Errorf("PUT %s: %d %s", path, status, answer)
				}
			}
		}
		alice.Must("PUT", data+"fine", map[string]any{}, nil)
		alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "hello"})
	})
}
