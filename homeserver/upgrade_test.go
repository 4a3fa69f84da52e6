package homeserver_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

type content map[string]any

func stateOf(u *hstest.User, room id.RoomID, typ string) (out content) {
	u.Must("GET", "/v3/rooms/"+string(room)+"/state/"+typ+"/", nil, &out)
	return out
}

func setState(u *hstest.User, room id.RoomID, typ string, c any) {
	u.Must("PUT", "/v3/rooms/"+string(room)+"/state/"+typ+"/", c, nil)
}

func upgrade(u *hstest.User, room id.RoomID, body content) id.RoomID {
	var out struct {
		Room id.RoomID `json:"replacement_room"`
	}
	u.Must("POST", "/v3/rooms/"+string(room)+"/upgrade", body, &out)
	return out.Room
}

// in reads a member of nested objects.
func (c content) in(path ...string) any {
	var v any = map[string]any(c)
	for _, key := range path {
		m, _ := v.(map[string]any)
		v = m[key]
	}
	return v
}

func TestUpgrade(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob, eve := s.Register("alice"), s.Register("bob"), s.Register("eve")
		for _, versions := range [][2]string{{"1", "12"}, {"5", "6"}, {"9", "10"}, {"11", "12"}, {"12", "12"}, {"12", "11"}, {"10", "6"}} {
			name := versions[0] + " to " + versions[1]
			alias := fmt.Sprintf("#room%s%s:%s", versions[0], versions[1], s.Name)
			old := alice.CreateRoom(content{
				"preset": "public_chat", "room_version": versions[0], "name": "Old", "topic": "talk", "visibility": "public",
				"room_alias_name": fmt.Sprintf("room%s%s", versions[0], versions[1]), "creation_content": content{"type": "m.space"},
				"initial_state": []any{content{"type": "m.room.encryption", "content": content{"algorithm": "m.megolm.v1.aes-sha2"}}},
			})
			if versions[0] == "10" {
				setState(alice, old, "m.room.join_rules", content{"join_rule": "knock_restricted", "allow": []any{}})
			}
			alice.Must("POST", "/v3/rooms/"+string(old)+"/ban", content{"user_id": eve.ID, "reason": "spam"}, nil)
			addChild(alice, old, "!child", content{})
			if versions[0] != "10" {
				bob.Must("POST", "/v3/join/"+string(old), nil, nil)
				bob.Refused("POST", "/v3/rooms/"+string(old)+"/upgrade", content{"new_version": versions[1]}, 403, "M_FORBIDDEN")
			}
			alice.Refused("POST", "/v3/rooms/"+string(old)+"/upgrade", content{"new_version": "nosuch"}, 400, "M_UNSUPPORTED_ROOM_VERSION")

			next := upgrade(alice, old, content{"new_version": versions[1]})
			create := stateOf(alice, next, "m.room.create")
			if create.in("predecessor", "room_id") != string(old) || create["type"] != "m.space" || create["room_version"] != versions[1] ||
				(create.in("predecessor", "event_id") == nil) != (versions[1] == "12") {
				t.Errorf("%s: m.room.create is %v", name, create)
			}
			for typ, want := range map[string]string{"m.room.name": "Old", "m.room.topic": "talk", "m.room.canonical_alias": alias} {
				member := typ[len("m.room."):]
				if member == "canonical_alias" {
					member = "alias"
				}
				if got := stateOf(alice, next, typ)[member]; got != want {
					t.Errorf("%s: %s is %v", name, typ, got)
				}
			}
			if got := stateOf(alice, next, "m.room.encryption")["algorithm"]; got != "m.megolm.v1.aes-sha2" {
				t.Errorf("%s: encryption is %v", name, got)
			}
			if got, want := stateOf(alice, next, "m.room.join_rules")["join_rule"], map[bool]string{true: "invite", false: "public"}[versions[0] == "10"]; got != want {
				t.Errorf("%s: join rule is %v, want %v", name, got, want)
			}
			alice.Must("GET", "/v3/rooms/"+string(next)+"/state/m.space.child/!child", nil, nil)
			if got := stateOf(alice, old, "m.room.tombstone")["replacement_room"]; got != string(next) {
				t.Errorf("%s: the tombstone names %v", name, got)
			}
			if levels := stateOf(alice, old, "m.room.power_levels"); levels["events_default"] != 50.0 || levels["invite"] != 50.0 {
				t.Errorf("%s: levels in the old room are %v", name, levels)
			}
			level := stateOf(alice, next, "m.room.power_levels").in("users", string(alice.ID))
			if (level == nil) != (versions[1] == "12") {
				t.Errorf("%s: alice has the level %v", name, level)
			}
			var found struct {
				Room       id.RoomID `json:"room_id"`
				Visibility string    `json:"visibility"`
			}
			alice.Must("GET", "/v3/directory/room/%23"+alias[1:], nil, &found)
			if found.Room != next {
				t.Errorf("%s: the alias leads to %s", name, found.Room)
			}
			for room, want := range map[id.RoomID]string{old: "private", next: "public"} {
				alice.Must("GET", "/v3/directory/list/room/"+string(room), nil, &found)
				if found.Visibility != want {
					t.Errorf("%s: %s is %s in the list, want %s", name, room, found.Visibility, want)
				}
			}
			eve.Refused("POST", "/v3/join/"+string(next), nil, 403, "M_FORBIDDEN")
			alice.Send(next, "m.room.message", content{"msgtype": "m.text", "body": "here we are"})
		}
	})
}

// TestUpgradeCreators are who stands above all in the new room, and who has a level there (room version 12).
func TestUpgradeCreators(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob, charlie := s.Register("alice"), s.Register("bob"), s.Register("charlie")
		for i, c := range []struct {
			from  string
			users content
			by    *hstest.User
			add   []id.UserID
			want  content
		}{
			{"11", content{string(bob.ID): 100}, bob, nil, content{}},
			{"11", content{string(bob.ID): 100, string(charlie.ID): 100}, bob, nil, content{string(charlie.ID): 100.0}},
			{"12", content{string(bob.ID): 150}, bob, []id.UserID{charlie.ID}, content{}},
			{"12", content{string(bob.ID): 150, string(charlie.ID): 50}, bob, []id.UserID{charlie.ID}, content{}},
			{"11", content{string(alice.ID): 100, string(bob.ID): 100, string(charlie.ID): 50}, alice, []id.UserID{bob.ID}, content{string(charlie.ID): 50.0}},
		} {
			old := alice.CreateRoom(content{"preset": "public_chat", "room_version": c.from})
			bob.Must("POST", "/v3/join/"+string(old), nil, nil)
			setState(alice, old, "m.room.power_levels", content{"users": c.users})
			next := upgrade(c.by, old, content{"new_version": "12", "additional_creators": c.add})
			if got := fmt.Sprint(stateOf(c.by, next, "m.room.power_levels")["users"]); got != fmt.Sprint(c.want) {
				t.Errorf("case %d: users have %v, want %v", i, got, c.want)
			}
			creators, _ := stateOf(c.by, next, "m.room.create")["additional_creators"].([]any)
			if len(creators) != len(c.add) || len(creators) > 0 && creators[0] != string(c.add[0]) {
				t.Errorf("case %d: creators are %v, want %v", i, creators, c.add)
			}
		}
		room := alice.CreateRoom(content{"preset": "public_chat"})
		alice.Refused("POST", "/v3/rooms/"+string(room)+"/upgrade", content{"new_version": "12", "additional_creators": []any{"bob"}}, 400, "M_INVALID_PARAM")
	})
}

// TestUpgradeManyBans makes a room with more state than is kept in memory.
func TestUpgradeManyBans(t *testing.T) {
	s := hstest.New(t)
	alice := s.Register("alice")
	room := alice.CreateRoom(content{"preset": "public_chat"})
	for i := range 400 {
		alice.Must("PUT", fmt.Sprintf("/v3/rooms/%s/state/m.room.member/@u%d:elsewhere.test", room, i), content{"membership": "ban"}, nil)
	}
	next := upgrade(alice, room, content{"new_version": "12"})
	var members struct {
		Chunk []json.RawMessage `json:"chunk"`
	}
	alice.Must("GET", "/v3/rooms/"+string(next)+"/members?membership=ban", nil, &members)
	if len(members.Chunk) != 400 {
		t.Errorf("%d bans, want 400", len(members.Chunk))
	}
	stateOf(alice, next, "m.room.power_levels")
}

// TestUpgradesReadBoundedBytes: what an upgrade takes along while the room waits has a bound in bytes.
func TestUpgradesReadBoundedBytes(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		const bans, fit = 60, 30 // of 60 KB each
		alice := s.Register("alice")
		room := alice.CreateRoom(content{"preset": "public_chat"})
		reason := strings.Repeat("x", 60_000)
		for i := range bans {
			alice.Must("PUT", fmt.Sprintf("/v3/rooms/%s/state/m.room.member/@u%03d:elsewhere.test", room, i), content{"membership": "ban", "reason": reason}, nil)
		}
		alice.Must("PUT", fmt.Sprintf("/v3/rooms/%s/state/m.room.member/@u000:elsewhere.test", room), content{"membership": "leave"}, nil)
		next := upgrade(alice, room, content{"new_version": "11"})
		var members struct {
			Chunk []struct {
				StateKey string `json:"state_key"`
			}
		}
		alice.Must("GET", "/v3/rooms/"+string(next)+"/members?membership=ban", nil, &members)
		if n := len(members.Chunk); n < fit || n >= bans-1 {
			t.Errorf("%d of %d bans were taken along, want those that fit", n, bans-1)
		}
		for _, m := range members.Chunk {
			if m.StateKey == "@u000:elsewhere.test" {
				t.Error("a ban that was taken back is back")
			}
		}
	})
}

// TestSettingsFollow checks that push rules and tags come along to the successor of a room.
func TestSettingsFollow(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob := s.Register("alice"), s.Register("bob")
		old := alice.CreateRoom(content{"preset": "public_chat", "room_version": "10"})
		bob.Must("POST", "/v3/join/"+string(old), nil, nil)
		for _, u := range []*hstest.User{alice, bob} {
			u.Must("PUT", "/v3/pushrules/global/room/"+string(old), content{"actions": []any{"dont_notify"}}, nil)
			u.Must("PUT", "/v3/user/"+string(u.ID)+"/rooms/"+string(old)+"/tags/m.favourite", content{"order": 0.5}, nil)
		}
		byHand := alice.CreateRoom(content{"preset": "public_chat", "creation_content": content{"predecessor": content{"room_id": old}}})
		for _, next := range []id.RoomID{byHand, upgrade(alice, old, content{"new_version": "11"})} {
			bob.Must("POST", "/v3/join/"+string(next), nil, nil)
			for _, u := range []*hstest.User{alice, bob} {
				u.Must("GET", "/v3/pushrules/global/room/"+string(next), nil, nil)
				var tags content
				u.Must("GET", "/v3/user/"+string(u.ID)+"/rooms/"+string(next)+"/tags", nil, &tags)
				if tags.in("tags", "m.favourite", "order") != 0.5 {
					t.Errorf("%s has the tags %v", u.ID, tags)
				}
			}
		}
	})
}

func TestReporting(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob := s.Register("alice"), s.Register("bob")
		room := alice.CreateRoom(content{"preset": "private_chat"})
		sent := alice.Send(room, "m.room.message", content{"msgtype": "m.text", "body": "spam"})
		why := content{"reason": "it makes me sad"}
		alice.Must("POST", fmt.Sprintf("/v3/rooms/%s/report/%s", room, sent), why, nil)
		alice.Refused("POST", fmt.Sprintf("/v3/rooms/%s/report/$nosuch", room), why, 404, "M_NOT_FOUND")
		bob.Refused("POST", fmt.Sprintf("/v3/rooms/%s/report/%s", room, sent), why, 404, "M_NOT_FOUND")
		bob.Must("POST", fmt.Sprintf("/v3/rooms/%s/report", room), why, nil)
		bob.Refused("POST", "/v3/rooms/!nosuch/report", why, 404, "M_NOT_FOUND")
		bob.Must("POST", fmt.Sprintf("/v3/users/%s/report", alice.ID), why, nil)
		bob.Refused("POST", fmt.Sprintf("/v3/users/@nosuch:%s/report", s.Name), why, 404, "M_NOT_FOUND")
		bob.Refused("POST", fmt.Sprintf("/v3/rooms/%s/report", room), content{"reason": string(make([]byte, 4097))}, 400, "M_INVALID_PARAM")
	})
}

func TestMutualRooms(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob := s.Register("alice"), s.Register("bob")
		both := alice.CreateRoom(content{"preset": "public_chat"})
		alice.CreateRoom(content{"preset": "public_chat", "invite": []any{bob.ID}})
		bob.Must("POST", "/v3/join/"+string(both), nil, nil)
		var got struct {
			Joined []id.RoomID `json:"joined"`
			Count  int         `json:"count"`
		}
		alice.Must("GET", "/v1/mutual_rooms?user_id="+string(bob.ID), nil, &got)
		if len(got.Joined) != 1 || got.Joined[0] != both || got.Count != 1 {
			t.Errorf("got %+v, want %s", got, both)
		}
		alice.Must("GET", "/v1/mutual_rooms?user_id=@nosuch:"+string(s.Name), nil, &got)
		if len(got.Joined) != 0 || got.Count != 0 {
			t.Errorf("with nobody: %+v", got)
		}
		for _, wrong := range []string{"", "?user_id=" + string(alice.ID), "?user_id=bob", "?user_id=@B%C3%B6b:one.test", "?user_id=" + string(bob.ID) + "&from=x"} {
			alice.Refused("GET", "/v1/mutual_rooms"+wrong, nil, 400, "M_INVALID_PARAM")
		}
	})
}
