package clientapi_test

import (
	"fmt"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestRelationsThatMakeNoSense: a reaction counts once, and threads have no branches.
func TestRelationsThatMakeNoSense(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob := s.Register("alice"), s.Register("bob")
		room := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		bob.Must("POST", "/v3/join/"+string(room), nil, nil)
		relation := func(typ string, to id.EventID, key string) map[string]any {
			return map[string]any{"msgtype": "m.text", "body": "x", "m.relates_to": map[string]any{"rel_type": typ, "event_id": to, "key": key}}
		}
		txns := 0
		path := func(typ string) string {
			txns++
			return fmt.Sprintf("/v3/rooms/%s/send/%s/relation%d", room, typ, txns)
		}
		root := alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "root"})
		other := alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "other"})

		first := path("m.reaction")
		var made, again struct {
			ID id.EventID `json:"event_id"`
		}
		alice.Must("PUT", first, relation("m.annotation", root, "+"), &made)
		alice.Must("PUT", first, relation("m.annotation", root, "+"), &again)
		if made.ID == "" || again.ID != made.ID {
			t.Errorf("a repeated request made %q and %q", made.ID, again.ID)
		}
		alice.Refused("PUT", path("m.reaction"), relation("m.annotation", root, "+"), 400, "M_DUPLICATE_ANNOTATION")
		alice.Must("PUT", path("m.reaction"), relation("m.annotation", root, "-"), nil)
		alice.Must("PUT", path("m.reaction"), relation("m.annotation", other, "+"), nil)
		alice.Must("PUT", path("org.example.vote"), relation("m.annotation", root, "+"), nil)
		bob.Must("PUT", path("m.reaction"), relation("m.annotation", root, "+"), nil)
		alice.Must("PUT", fmt.Sprintf("/v3/rooms/%s/redact/%s/r", room, made.ID), nil, nil)
		alice.Must("PUT", path("m.reaction"), relation("m.annotation", root, "+"), nil)

		var inThread struct {
			ID id.EventID `json:"event_id"`
		}
		alice.Must("PUT", path("m.room.message"), relation("m.thread", root, ""), &inThread)
		bob.Must("PUT", path("m.room.message"), relation("m.thread", root, ""), nil)
		bob.Refused("PUT", path("m.room.message"), relation("m.thread", inThread.ID, ""), 400, "M_UNKNOWN")
		bob.Must("PUT", path("m.room.message"), relation("m.reference", inThread.ID, ""), nil)
		// The room goes on after a refusal.
		alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "on"})
	})
}
