package homeserver_test

import (
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// Users of one server are as much strangers to each other as users of two.
func TestRedactionTakesPower(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob := s.Register("alice"), s.Register("bob")
		for _, version := range []string{"1", "10", "12"} {
			room := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": version})
			bob.Must("POST", "/v3/join/"+string(room), nil, nil)
			path := "/v3/rooms/" + string(room)
			said := alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "hello"})
			var state []struct {
				Type   string     `json:"type"`
				Sender id.UserID  `json:"sender"`
				ID     id.EventID `json:"event_id"`
			}
			alice.Must("GET", path+"/state", nil, &state)
			events := map[string]id.EventID{"message": said}
			for _, ev := range state {
				if ev.Sender == alice.ID {
					events[ev.Type] = ev.ID
				}
			}
			for what, event := range events {
				bob.Refused("PUT", path+"/redact/"+string(event)+"/of"+what, nil, 403, "M_FORBIDDEN")
				if what == "m.room.create" {
					alice.Refused("PUT", path+"/redact/"+string(event)+"/of"+what, nil, 403, "M_FORBIDDEN")
				}
			}
			if version != "1" { // there, the ID's server decides
				bob.Refused("PUT", path+"/redact/$unknown/1", nil, 404, "M_NOT_FOUND")
			}
			own := bob.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "oops"})
			bob.Must("PUT", path+"/redact/"+string(own)+"/own", nil, nil)
			others := bob.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "spam"})
			alice.Must("PUT", path+"/redact/"+string(others)+"/others", nil, nil)
			for event, want := range map[id.EventID]bool{said: true, own: false, others: false} {
				var shown struct {
					Content map[string]any `json:"content"`
				}
				alice.Must("GET", path+"/event/"+string(event), nil, &shown)
				if (len(shown.Content) > 0) != want {
					t.Errorf("version %s: the content is %v", version, shown.Content)
				}
			}
		}
	})
}

// A redacted name is gone from where it was copied to, too.
func TestRedactedStateIsGone(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob := s.Register("alice"), s.Register("bob")
		room := alice.CreateRoom(map[string]any{"visibility": "public", "preset": "private_chat"})
		path := "/v3/rooms/" + string(room)
		name := map[string]any{"name": "secret name"}
		var first, second struct {
			ID id.EventID `json:"event_id"`
		}
		alice.Must("PUT", path+"/state/m.room.name", name, &first)
		alice.Must("PUT", path+"/redact/"+string(first.ID)+"/1", nil, nil)
		alice.Must("POST", path+"/invite", map[string]any{"user_id": bob.ID}, nil)
		for _, shown := range []string{"/v3/publicRooms", "/v3/sync"} {
			if _, body := bob.Do("GET", shown, nil); strings.Contains(string(body), "secret name") {
				t.Errorf("%s shows a redacted name: %s", shown, body)
			}
		}
		alice.Must("PUT", path+"/state/m.room.name", name, &second)
		if second.ID == first.ID {
			t.Error("setting the name again answers the redacted event")
		}
	})
}

// What a moderator redacts may be here no more than its ID: the servers that have it hear of the redaction all the same.
func TestRedactionsOfTheUnknownGoOut(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		alice := s.Register("alice")
		roomID := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		room := peer.Join(roomID, peer.User("eve"))
		unknown := room.Message("never sent to this server")
		var answer struct {
			ID id.EventID `json:"event_id"`
		}
		alice.Must("PUT", "/v3/rooms/"+string(roomID)+"/redact/"+string(unknown.ID)+"/1", nil, &answer)
		peer.Await("the redaction", func() bool { return room.Known(answer.ID) != nil })
	})
}
