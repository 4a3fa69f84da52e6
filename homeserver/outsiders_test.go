package homeserver_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestInvitesOfOutsidersAreNotSigned: a server that is not in a room of ours gets no signature for an invite into it.
func TestInvitesOfOutsidersAreNotSigned(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, evil *hstest.Peer) {
		alice, bob := s.Register("alice"), s.Register("bob")
		roomID := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": "11"})
		invite := func() int {
			target := string(bob.ID)
			v, _ := event.VersionOf("11")
			made, err := event.Build(v, event.Proto{
				Type: event.TypeMember, StateKey: &target, Sender: evil.User("eve"), RoomID: roomID, Content: json.RawMessage(`{"membership":"invite"}`),
				PrevEvents: []id.EventID{"$nowhere"}, AuthEvents: []id.EventID{"$nothing"}, Depth: 50, OriginServerTS: time.Now().UnixMilli(),
			}, evil.Name, evil.Key)
			if err != nil {
				t.Fatal(err)
			}
			ev := made.Event()
			path := "/v2/invite/" + url.PathEscape(string(roomID)) + "/" + url.PathEscape(string(ev.ID))
			status, _ := evil.Do("PUT", path, map[string]any{"room_version": "11", "invite_room_state": []any{}, "event": json.RawMessage(ev.JSON)})
			return status
		}
		if status := invite(); status != http.StatusForbidden {
			t.Errorf("an outsider's invite is answered with %d", status)
		}
		evil.Join(roomID, evil.User("eve"))
		if status := invite(); status != http.StatusOK {
			t.Errorf("a member's, whose past can't be had yet, with %d", status)
		}
	})
}

// TestInvitesTellOfTheRoomByWholeEvents: who is invited can check what they are told of the room.
func TestInvitesTellOfTheRoomByWholeEvents(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		alice := s.Register("alice")
		for _, version := range []string{"10", "11", "12"} {
			room := alice.CreateRoom(map[string]any{"preset": "private_chat", "room_version": version, "name": "Plans", "topic": "What comes"})
			alice.Must("POST", "/v3/rooms/"+string(room)+"/invite", map[string]any{"user_id": peer.User("bob")}, nil)
		}
	})
}
