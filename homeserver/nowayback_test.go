package homeserver_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestStateWithoutAWayBack: nobody shuts themselves out by accident, or shows what was not meant to be shown. What is
// refused is refused wherever a client can set it.
func TestStateWithoutAWayBack(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		const megolm = "m.megolm.v1.aes-sha2"
		for i, c := range []struct {
			typ     string
			content any
			ok      bool
		}{
			{"m.room.server_acl", content{"allow": []any{"*"}, "deny": []any{"evil.test"}}, true},
			{"m.room.server_acl", content{"allow": []any{"one.*"}, "allow_ip_literals": false}, true},
			{"m.room.server_acl", content{}, false},
			{"m.room.server_acl", content{"allow": []any{}}, false},
			{"m.room.server_acl", content{"allow": "*"}, false},
			{"m.room.server_acl", content{"allow": nil}, false},
			{"m.room.server_acl", content{"allow": []any{"*", 1}}, false},
			{"m.room.server_acl", content{"allow": []any{"two.test"}}, false},
			{"m.room.server_acl", content{"allow": []any{"*"}, "deny": []any{"ONE.test"}}, false},
			{"m.room.server_acl", content{"allow": []any{"*"}, "deny": []any{"*"}}, false},
			{"m.room.server_acl", content{"allow": []any{"*"}, "deny": "evil.test"}, false},
			{"m.room.server_acl", content{"allow": []any{"*"}, "allow_ip_literals": "no"}, false},
			{"m.room.tombstone", content{"body": "b", "replacement_room": "!next:one.test"}, true},
			{"m.room.tombstone", content{"body": "b", "replacement_room": ""}, false},
			{"m.room.tombstone", content{"body": "b", "replacement_room": 5}, false},
			{"m.room.tombstone", content{"body": "b", "replacement_room": "#next:one.test"}, false},
			{"m.room.encryption", content{"algorithm": megolm, "rotation_period_msgs": 100}, true},
			{"m.room.encryption", content{}, false},
			{"m.room.encryption", content{"algorithm": 1}, false},
			{"m.room.encryption", content{"algorithm": ""}, false},
			{"m.room.encryption", content{"algorithm": megolm, "rotation_period_ms": "soon"}, false},
			{"m.room.encryption", content{"algorithm": megolm, "rotation_period_ms": 0}, false},
			{"m.room.history_visibility", content{"history_visibility": "joined"}, true},
			{"m.room.history_visibility", content{"history_visibility": "nobody"}, false},
			{"m.room.history_visibility", content{}, false},
			{"m.room.history_visibility", content{"history_visibility": []any{"joined"}}, false},
			{"m.room.join_rules", content{"join_rule": "restricted", "allow": []any{}}, true},
			{"m.room.join_rules", content{"join_rule": "my.own.rule"}, true},
			{"m.room.join_rules", content{}, false},
			{"m.room.join_rules", content{"join_rule": "restricted", "allow": "all"}, true}, // lets nobody in, until it is set anew
			{"m.room.power_levels", content{"users": []any{}}, false},
			{"m.room.power_levels", content{"users": content{string(alice.ID): "100"}}, false},
			{"m.room.power_levels", content{}, true}, // taken away
			{"m.room.power_levels", content{"users": content{}}, false},
			{"m.room.power_levels", content{"users": content{string(alice.ID): 49}}, false},
			{"m.room.power_levels", content{"users": content{string(alice.ID): 50}, "events": content{"m.room.power_levels": 51}}, false},
			{"m.room.power_levels", content{"users": content{string(alice.ID): 50}}, true},
			{"m.room.power_levels", content{"users_default": 50}, true},
			{"m.room.power_levels", content{"state_default": 0}, true},
			{"m.room.name", content{"name": 5}, true}, // can be set again
		} {
			name := fmt.Sprintf("case %d, %s %v", i, c.typ, c.content)
			room := alice.CreateRoom(content{"room_version": "10"})
			status, body := alice.Do("PUT", "/v3/rooms/"+string(room)+"/state/"+c.typ+"/", c.content)
			if (status == 200) != c.ok || !c.ok && status != 400 && status != 403 {
				t.Errorf("%s: %d %s", name, status, body)
			}
			if c.typ == "m.room.power_levels" {
				continue
			}
			initial := content{"initial_state": []any{content{"type": c.typ, "content": c.content}}}
			if status, body := alice.Do("POST", "/v3/createRoom", initial); (status == 200) != c.ok || !c.ok && status != 400 {
				t.Errorf("%s, to begin with: %d %s", name, status, body)
			}
		}
		for version, want := range map[string]int{"11": 400, "12": 200} { // there, the creator is above all levels
			made := content{"room_version": version, "power_level_content_override": content{"users": content{}}}
			if status, body := alice.Do("POST", "/v3/createRoom", made); status != want {
				t.Errorf("a room of version %s without power: %d %s", version, status, body)
			}
		}
		empty := "/v3/rooms/" + string(alice.CreateRoom(content{"room_version": "11"})) + "/state/m.room.power_levels"
		alice.Must("PUT", empty, content{}, nil)
		alice.Refused("PUT", empty, content{"users": content{}}, 403, "M_FORBIDDEN") // the power for it comes first
		room := alice.CreateRoom(content{})
		path := "/v3/rooms/" + string(room) + "/state/"
		alice.Refused("PUT", path+"m.room.tombstone/", content{"body": "b", "replacement_room": room}, 400, "M_INVALID_PARAM")
		for typ, c := range map[string]content{"m.room.encryption": {"algorithm": megolm}, "m.room.server_acl": {"allow": []any{"*"}}} {
			var sent struct {
				ID string `json:"event_id"`
			}
			alice.Must("PUT", path+typ+"/", c, &sent)
			alice.Refused("PUT", "/v3/rooms/"+string(room)+"/redact/"+sent.ID+"/t", nil, 403, "M_FORBIDDEN")
		}
		alice.Refused("PUT", path+"m.room.encryption/", content{"algorithm": "m.none"}, 400, "M_INVALID_PARAM")
		alice.Must("PUT", path+"m.room.encryption/", content{"algorithm": megolm, "rotation_period_msgs": 5}, nil)
		for _, wrong := range []content{
			{"creation_content": content{"m.federate": "no"}}, {"creation_content": content{"type": 1}}, {"creation_content": content{"predecessor": "!r:one.test"}},
			{"creation_content": content{"m.federate": false}, "invite": []any{"@bob:elsewhere.test"}},
			{"power_level_content_override": content{"users": "alice"}, "room_version": "1"},
			{"initial_state": []any{content{"type": "m.room.canonical_alias", "content": content{"alias": "#nosuch:one.test"}}}},
		} {
			if status, body := alice.Do("POST", "/v3/createRoom", wrong); status != 400 {
				t.Errorf("%v: %d %s", wrong, status, body)
			}
		}
		alice.CreateRoom(content{"room_alias_name": "mine", "initial_state": []any{content{"type": "m.room.canonical_alias", "content": content{"alias": "#mine:one.test"}}}})
	})
}

// TestCreationContent: what stands in m.room.create can never be changed, so it has to be readable, and gives no power to who
// could never come into the room or whom there is not: in a new room, and in one that replaces another.
func TestCreationContent(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, carol, gone := s.Register("alice"), s.Register("carol"), s.Register("gone")
		gone.Must("POST", "/v3/account/deactivate", content{"auth": content{
			"type": "m.login.password", "identifier": content{"type": "m.id.user", "user": gone.ID}, "password": "wordpass-gone",
		}}, nil)
		nobody, outsider := "@nobody:"+string(s.Name), "@bob:elsewhere.test"
		for _, c := range []struct {
			create content
			ok     bool
		}{
			{content{"m.federate": nil}, false},
			{content{"m.federate": "false"}, false},
			{content{"m.federate": 0}, false},
			{content{"m.federate": true}, true},
			{content{"type": nil}, false},
			{content{"type": []any{"m.space"}}, false},
			{content{"type": "m.space"}, true},
			{content{"predecessor": nil}, false},
			{content{"predecessor": content{}}, false},
			{content{"predecessor": content{"room_id": 1}}, false},
			{content{"predecessor": content{"room_id": "!r:one.test", "event_id": 5}}, false},
			{content{"predecessor": content{"room_id": "!r:one.test"}}, true},
			{content{"additional_creators": nil}, false},
			{content{"additional_creators": carol.ID}, false},
			{content{"additional_creators": []any{1}}, false},
			{content{"additional_creators": []any{"carol"}}, false},
			{content{"additional_creators": []any{nobody}}, false},
			{content{"additional_creators": []any{gone.ID}}, false},
			{content{"additional_creators": []any{outsider}, "m.federate": false}, false},
			{content{"additional_creators": []any{outsider}, "m.federate": true}, true},
			{content{"additional_creators": []any{carol.ID}, "m.federate": false}, true},
			{content{"room_version": "1", "creator": outsider}, true}, // which are written over
		} {
			status, body := alice.Do("POST", "/v3/createRoom", content{"creation_content": c.create, "room_version": "12"})
			if c.ok && status != 200 || !c.ok && (status != 400 || !strings.Contains(string(body), "M_INVALID_PARAM")) {
				t.Errorf("%v: %d %s", c.create, status, body)
			}
		}
		alice.Refused("POST", "/v3/createRoom", content{"preset": "trusted_private_chat", "invite": []any{nobody}, "room_version": "12"}, 400, "M_INVALID_PARAM")
		room := alice.CreateRoom(content{"creation_content": content{"m.federate": false, "type": "m.space"}, "room_version": "11"})
		upgrade := "/v3/rooms/" + string(room) + "/upgrade"
		for _, creator := range []any{outsider, nobody, gone.ID, "carol"} {
			alice.Refused("POST", upgrade, content{"new_version": "12", "additional_creators": []any{creator}}, 400, "M_INVALID_PARAM")
		}
		var next struct {
			Room id.RoomID `json:"replacement_room"`
		}
		alice.Must("POST", upgrade, content{"new_version": "12", "additional_creators": []any{carol.ID}}, &next)
		var create struct {
			Federate *bool  `json:"m.federate"`
			Type     string `json:"type"`
			Version  string `json:"room_version"`
		}
		alice.Must("GET", "/v3/rooms/"+string(next.Room)+"/state/m.room.create/", nil, &create)
		if create.Federate == nil || *create.Federate || create.Type != "m.space" || create.Version != "12" {
			t.Errorf("the room that replaces it is %+v", create)
		}
	})
}

// TestRoomsForOneServer: nobody of another server is invited where they may not come in.
func TestRoomsForOneServer(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, carol, bob := one.Register("alice"), one.Register("carol"), two.Register("bob")
		for _, version := range []string{"10", "12"} {
			room := alice.CreateRoom(content{"creation_content": content{"m.federate": false}, "room_version": version})
			alice.Refused("POST", "/v3/rooms/"+string(room)+"/invite", content{"user_id": bob.ID}, 403, "M_FORBIDDEN")
			alice.Refused("PUT", "/v3/rooms/"+string(room)+"/state/m.room.member/"+string(bob.ID), content{"membership": "invite"}, 403, "M_FORBIDDEN")
			alice.Must("POST", "/v3/rooms/"+string(room)+"/invite", content{"user_id": carol.ID}, nil)
		}
	})
}
