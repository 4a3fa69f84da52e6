package homeserver_test

import (
	"encoding/json"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

func joins(u *hstest.User, room id.RoomID, via id.ServerName) int {
	status, _ := u.Do("POST", "/v3/join/"+string(room)+"?via="+string(via), nil)
	return status
}

// Room version 8 has a server in its room IDs, version 12 has none: only who was named knows the room then.
func TestRestrictedJoins(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, bob, carol := one.Register("alice"), two.Register("bob"), two.Register("carol")
		for _, version := range []string{"8", "12"} {
			allowed := alice.CreateRoom(map[string]any{"preset": "public_chat"})
			rule := map[string]any{"join_rule": "restricted", "allow": []any{map[string]any{"type": "m.room_membership", "room_id": allowed}}}
			room := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": version, "initial_state": []any{
				map[string]any{"type": "m.room.join_rules", "state_key": "", "content": rule},
			}})
			if got := joins(bob, room, one.Name); got != 403 {
				t.Errorf("version %s: a stranger joins: %d", version, got)
			}
			if got := joins(bob, allowed, one.Name); got != 200 {
				t.Fatalf("version %s: cannot join the room that lets in: %d", version, got)
			}
			if got := joins(bob, room, one.Name); got != 200 {
				t.Fatalf("version %s: cannot join the restricted room: %d", version, got)
			}
			// Who authorised a join is never the client's to say.
			profile := map[string]any{"membership": "join", "displayname": "Bobby", "join_authorised_via_users_server": "unused"}
			bob.Must("PUT", "/v3/rooms/"+string(room)+"/state/m.room.member/"+string(bob.ID), profile, nil)
			// Nobody at the second server may invite, so the first one is asked, though nobody names it.
			if got := joins(carol, allowed, two.Name); got != 200 {
				t.Fatalf("version %s: cannot join by the own server: %d", version, got)
			}
			alice.AwaitMembership(allowed, carol.ID, "join")
			if got := joins(carol, room, two.Name); got != 200 {
				t.Errorf("version %s: no other server is asked to authorise a join: %d", version, got)
			}
			// What was known of a room is out of date once nobody of the server is in it.
			carol.Must("POST", "/v3/rooms/"+string(room)+"/leave", nil, nil)
			carol.Must("POST", "/v3/rooms/"+string(allowed)+"/leave", nil, nil)
			bob.Must("POST", "/v3/rooms/"+string(allowed)+"/leave", nil, nil)
			alice.AwaitMembership(allowed, carol.ID, "leave")
			if got := joins(carol, room, two.Name); got != 403 {
				t.Errorf("version %s: who left the room that lets in joins: %d", version, got)
			}
		}
	})
}

func TestInviteAfterBan(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, bob := one.Register("alice"), two.Register("bob")
		room := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": "12"})
		if got := joins(bob, room, one.Name); got != 200 {
			t.Fatalf("cannot join: %d", got)
		}
		path := "/v3/rooms/" + string(room)
		target := map[string]any{"user_id": bob.ID}
		alice.Must("POST", path+"/ban", target, nil)
		alice.Must("POST", path+"/unban", target, nil)
		alice.Must("POST", path+"/invite", target, nil)
		type invites struct {
			Rooms struct {
				Invite map[id.RoomID]struct {
					State struct {
						Events []map[string]json.RawMessage `json:"events"`
					} `json:"invite_state"`
				} `json:"invite"`
			} `json:"rooms"`
		}
		var sync invites
		bob.Await("the invite", func(answer []byte) bool {
			sync = invites{}
			return json.Unmarshal(answer, &sync) == nil && len(sync.Rooms.Invite) > 0
		})
		whole := false
		for _, ev := range sync.Rooms.Invite[room].State.Events {
			whole = whole || string(ev["type"]) == `"m.room.create"` && len(ev["origin_server_ts"]) > 0
		}
		if !whole {
			t.Errorf("the invite does not show when the room was made: %v", sync.Rooms.Invite)
		}
	})
}

func TestMalformedStateIsNoQuestionOfRights(t *testing.T) {
	s := hstest.New(t)
	alice := s.Register("alice")
	room := alice.CreateRoom(map[string]any{"room_version": "12"})
	path := "/v3/rooms/" + string(room) + "/state/"
	alice.Refused("PUT", path+"m.room.power_levels/", map[string]any{"users": map[string]int{string(alice.ID): 100}}, 400, "M_INVALID_PARAM")
	alice.Refused("PUT", path+"m.room.power_levels/", map[string]any{"ban": "50"}, 400, "M_INVALID_PARAM")
	alice.Refused("PUT", path+"m.room.create/", map[string]any{"room_version": "12"}, 400, "M_INVALID_PARAM")
}
