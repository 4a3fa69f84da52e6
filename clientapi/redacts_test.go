package clientapi_test

import (
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
)

// TestRedactionOfNothing: a redaction that is sent as any event has to say what it redacts.
func TestRedactionOfNothing(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		room := alice.CreateRoom(map[string]any{})
		path := "/v3/rooms/" + string(room) + "/send/m.room.redaction/"
		alice.Refused("PUT", path+"1", map[string]any{"reason": "spam"}, 400, "M_MISSING_PARAM")
		target := alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "x"})
		alice.Must("PUT", path+"2", map[string]any{"redacts": target}, nil)
	})
}
