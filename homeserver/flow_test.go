package homeserver_test

import (
	"encoding/json"
	"net/url"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestFirstRoom is the shortest flow between two users of a server.
func TestFirstRoom(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob := s.Register("alice"), s.Register("bob")
		room := alice.CreateRoom(map[string]any{"preset": "private_chat", "invite": []any{bob.ID}})
		bob.Must("POST", "/v3/join/"+string(room), nil, nil)
		bob.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "hello"})
		eve := s.Register("eve")
		eve.Refused("PUT", "/v3/rooms/"+string(room)+"/send/m.room.message/1", map[string]any{"msgtype": "m.text", "body": "hi"}, 403, "M_FORBIDDEN")
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		s.Start()
		var joined struct {
			Rooms []string `json:"joined_rooms"`
		}
		bob.Must("GET", "/v3/joined_rooms", nil, &joined)
		if len(joined.Rooms) != 1 || joined.Rooms[0] != string(room) {
			t.Errorf("after a restart bob is in %v", joined.Rooms)
		}
	})
}

// What a sync keeps of a user must not outlive the user's wish to forget a room.
func TestForgottenRoom(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		room := alice.CreateRoom(map[string]any{})
		left := func() bool {
			var answer struct {
				Rooms struct {
					Leave map[id.RoomID]json.RawMessage `json:"leave"`
				} `json:"rooms"`
			}
			alice.Must("GET", "/v3/sync?filter="+url.QueryEscape(`{"room":{"include_leave":true}}`), nil, &answer)
			return answer.Rooms.Leave[room] != nil
		}
		alice.Must("POST", "/v3/rooms/"+string(room)+"/leave", nil, nil)
		if !left() {
			t.Error("a room that was left is not shown though include_leave is set")
		}
		alice.Must("POST", "/v3/rooms/"+string(room)+"/forget", nil, nil)
		if left() {
			t.Error("a forgotten room is shown")
		}
	})
}
