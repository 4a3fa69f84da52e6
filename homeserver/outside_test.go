package homeserver_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// awaitLeft waits until a user is told that they are no longer invited to a room, or knocking.
func awaitLeft(u *hstest.User, room id.RoomID) {
	u.Await("that the room is gone", func([]byte) bool {
		var sync struct {
			Rooms struct {
				Leave map[id.RoomID]json.RawMessage `json:"leave"`
			} `json:"rooms"`
		}
		u.Must("GET", "/v3/sync?filter="+url.QueryEscape(`{"room":{"include_leave":true}}`), nil, &sync)
		return sync.Rooms.Leave[room] != nil
	})
}

func awaitInvite(u *hstest.User, room id.RoomID) {
	u.Await("an invite", func(answer []byte) bool {
		return bytes.Contains(answer, []byte(`"invite_state"`)) && bytes.Contains(answer, []byte(room))
	})
}

// TestInvitesWaitForServersThatAreAway: a room is made with an invite for a user whose server is away. It is delivered
// later, also if the room's server was restarted meanwhile.
func TestInvitesWaitForServersThatAreAway(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, bob := one.Register("alice"), two.Register("bob")
		if err := two.Stop(); err != nil {
			t.Fatal(err)
		}
		room := alice.CreateRoom(content{"invite": []any{bob.ID}, "is_direct": true})
		if err := one.Stop(); err != nil {
			t.Fatal(err)
		}
		two.Start()
		one.Start()
		awaitInvite(bob, room)
		alice.AwaitMembership(room, bob.ID, "invite")
	})
}

// TestEndsOfInvitesAndKnocks: whose invite or knock another moderator ends hears of it, though their server is not in
// the room; and who takes back a knock has it taken back there too.
func TestEndsOfInvitesAndKnocks(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, carol, bob := one.Register("alice"), one.Register("carol"), two.Register("bob")
		for _, version := range []string{"10", "12"} {
			invited := alice.CreateRoom(content{"preset": "public_chat", "room_version": version})
			carol.Must("POST", "/v3/join/"+string(invited), nil, nil)
			users := content{string(carol.ID): 50}
			if version == "10" {
				users[string(alice.ID)] = 100
			}
			setState(alice, invited, "m.room.power_levels", content{"users": users})
			for _, end := range []string{"kick", "ban"} {
				alice.Must("POST", "/v3/rooms/"+string(invited)+"/invite", content{"user_id": bob.ID}, nil)
				awaitInvite(bob, invited)
				bob.Must("GET", "/v1/room_summary/"+string(invited), nil, nil) // from the server that the invite came from
				carol.Must("POST", "/v3/rooms/"+string(invited)+"/"+end, content{"user_id": bob.ID}, nil)
				awaitLeft(bob, invited)
			}
			knocked := alice.CreateRoom(content{"room_version": version})
			setState(alice, knocked, "m.room.join_rules", content{"join_rule": "knock"})
			for _, end := range []func(){
				func() { alice.Must("POST", "/v3/rooms/"+string(knocked)+"/kick", content{"user_id": bob.ID}, nil) },
				func() { bob.Must("POST", "/v3/rooms/"+string(knocked)+"/leave", nil, nil) },
			} {
				bob.Must("POST", "/v3/knock/"+string(knocked)+"?via="+string(one.Name), nil, nil)
				alice.AwaitMembership(knocked, bob.ID, "knock")
				end()
				awaitLeft(bob, knocked)
				alice.AwaitMembership(knocked, bob.ID, "leave")
			}
			// What the server knows of the room is enough to find it again.
			bob.Must("POST", "/v3/knock/"+string(knocked), nil, nil)
		}
	})
}

// TestComingBackByIDAlone: from version 12 on, the ID of a room names no server to ask. Who was in it is known.
func TestComingBackByIDAlone(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, bob := one.Register("alice"), two.Register("bob")
		room := alice.CreateRoom(content{"preset": "public_chat", "room_version": "12", "creation_content": content{"type": "m.space"}})
		bob.Refused("POST", "/v3/join/"+string(room), nil, 404, "M_NOT_FOUND")
		bob.Must("POST", "/v3/join/"+string(room)+"?via="+string(one.Name), nil, nil)
		bob.Must("POST", "/v3/rooms/"+string(room)+"/leave", nil, nil)
		alice.AwaitMembership(room, bob.ID, "leave")
		bob.Must("GET", "/v1/room_summary/"+string(room), nil, nil)
		bob.Must("GET", "/v1/rooms/"+string(room)+"/hierarchy", nil, nil)
		bob.Must("POST", "/v3/join/"+string(room), nil, nil)
		alice.AwaitMembership(room, bob.ID, "join")
	})
}

// TestServersThatAreAwayAreNotUnknownRooms: a join says why it fails.
func TestServersThatAreAwayAreNotUnknownRooms(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, bob := one.Register("alice"), two.Register("bob")
		room := alice.CreateRoom(content{"preset": "public_chat"})
		if err := one.Stop(); err != nil {
			t.Fatal(err)
		}
		bob.Refused("POST", "/v3/join/"+string(room)+"?via="+string(one.Name), nil, 502, "M_UNKNOWN")
		bob.Refused("POST", "/v3/knock/"+string(room)+"?via="+string(one.Name), nil, 502, "M_UNKNOWN")
		bob.Refused("POST", "/v3/join/!nosuchroom?via="+string(two.Name), nil, 404, "M_NOT_FOUND")
		one.Start()
		bob.Refused("POST", "/v3/join/!nosuchroom?via="+string(one.Name), nil, 404, "M_NOT_FOUND")
	})
}

// TestUsersWithoutDevicesHaveAnEntry: clients else keep the devices that they know.
func TestUsersWithoutDevicesHaveAnEntry(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, bob := one.Register("alice"), two.Register("bob")
		room := bob.CreateRoom(content{"preset": "public_chat"})
		alice.Must("POST", "/v3/join/"+string(room)+"?via="+string(two.Name), nil, nil)
		devices := func() (n int, there bool) {
			var out struct {
				Keys map[id.UserID]map[id.DeviceID]json.RawMessage `json:"device_keys"`
			}
			alice.Must("POST", "/v3/keys/query", content{"device_keys": content{string(bob.ID): []any{}}}, &out)
			of, there := out.Keys[bob.ID]
			return len(of), there
		}
		for range 2 { // asked, then remembered
			if n, there := devices(); n != 0 || !there {
				t.Errorf("bob has %d devices with keys, an entry: %t", n, there)
			}
		}
	})
}

// TestKnocksAnsweredAtOnce: the answer to a knock counts though it is here before the knock is known to have been taken, and
// one that is late does not count for the next knock.
func TestKnocksAnsweredAtOnce(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		alice := s.Register("alice")
		who, none := string(alice.ID), ""
		for _, end := range []string{"invite", "leave", "late"} {
			room := peer.Create("11", peer.User("eve"))
			room.Event(event.Proto{Type: event.TypeJoinRules, StateKey: &none, Content: json.RawMessage(`{"join_rule":"knock"}`)})
			member := func(membership string) *event.Event {
				return room.Event(event.Proto{Type: event.TypeMember, StateKey: &who, Content: json.RawMessage(`{"membership":"` + membership + `"}`)})
			}
			knock := func() {
				alice.Must("POST", "/v3/knock/"+string(room.ID)+"?server_name="+string(peer.Name), nil, nil)
			}
			peer.Handle("PUT /_matrix/federation/v1/send_knock/{room}/{event}", func(w http.ResponseWriter, r *http.Request) {
				answer := httptest.NewRecorder()
				peer.Honest(answer, r)
				switch end {
				case "leave":
					peer.Send(member(end))
				case "invite":
					ev := member(end)
					peer.Do("PUT", "/v2/invite/"+string(room.ID)+"/"+string(ev.ID), content{"room_version": "11", "event": json.RawMessage(ev.JSON), "invite_room_state": []any{}})
				}
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write(answer.Body.Bytes())
			})
			knock()
			switch end {
			case "leave":
				awaitLeft(alice, room.ID)
			case "invite":
				if got := membershipIn(alice, room.ID); got != "invite" {
					t.Errorf("a knock that was accepted is shown as %q", got)
				}
			case "late":
				denied := member("leave")
				knock()
				peer.Send(denied)
				if got := membershipIn(alice, room.ID); got != "knock" {
					t.Errorf("a new knock is shown as %q when the end of the former one comes", got)
				}
			}
		}
	})
}

// TestEndsOfNewerInvites: the server that an invite came from is believed when it ends a newer one, which never came here.
func TestEndsOfNewerInvites(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		alice := s.Register("alice")
		who := string(alice.ID)
		room := peer.Create("11", peer.User("eve"))
		member := func(membership string) *event.Event {
			return room.Event(event.Proto{Type: event.TypeMember, StateKey: &who, Content: json.RawMessage(`{"membership":"` + membership + `"}`)})
		}
		ev := member("invite")
		peer.Must("PUT", "/v2/invite/"+string(room.ID)+"/"+string(ev.ID), content{"room_version": "11", "event": json.RawMessage(ev.JSON), "invite_room_state": []any{}}, nil)
		if got := membershipIn(alice, room.ID); got != "invite" {
			t.Fatalf("an invite is shown as %q", got)
		}
		member("invite")
		if refused := peer.Send(member("leave")); len(refused) > 0 {
			t.Fatalf("refused are %v", refused)
		}
		awaitLeft(alice, room.ID)
	})
}

// membershipIn is the section of a first /sync that a room is in.
func membershipIn(u *hstest.User, room id.RoomID) string {
	var answer struct {
		Rooms map[string]map[id.RoomID]json.RawMessage `json:"rooms"`
	}
	u.Must("GET", "/v3/sync", nil, &answer)
	for section, rooms := range answer.Rooms {
		if _, ok := rooms[room]; ok {
			return section
		}
	}
	return ""
}
