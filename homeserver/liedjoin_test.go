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

// TestJoinsUndoNothing: a server without power that lets users of ours into a restricted room tells of it as it was before a
// ban and an access list. Others of ours are in the room and know better: nothing is undone, and who is banned stays out.
func TestJoinsUndoNothing(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		alice, dave, erin := s.Register("alice"), s.Register("dave"), s.Register("erin")
		bob, mallory := peer.User("bob"), peer.User("mallory")
		for _, version := range []string{"10", "11", "12"} {
			roomID := alice.CreateRoom(map[string]any{"room_version": version, "preset": "public_chat", "power_level_content_override": map[string]any{"invite": 0}})
			path := "/v3/rooms/" + url.PathEscape(string(roomID))
			room := peer.Join(roomID, bob)
			key := string(mallory)
			peer.Send(room.Event(event.Proto{Type: event.TypeMember, StateKey: &key, Sender: mallory, Content: json.RawMessage(`{"membership":"join"}`)}))
			alice.Must("PUT", path+"/state/m.room.join_rules", map[string]any{"join_rule": "restricted", "allow": []any{map[string]any{"type": "m.room_membership", "room_id": "!elsewhere:" + string(peer.Name)}}}, nil)
			known := alice.Send(roomID, "m.room.message", map[string]any{"msgtype": "m.text", "body": "the rules are set"})
			peer.Await("the rules", func() bool { return room.Known(known) != nil })
			told := []json.RawMessage{}
			for _, k := range [][2]string{{event.TypeCreate, ""}, {event.TypePowerLevels, ""}, {event.TypeJoinRules, ""}, {event.TypeMember, string(alice.ID)}, {event.TypeMember, string(bob)}, {event.TypeMember, key}} {
				told = append(told, room.State(k[0], k[1]).JSON)
			}
			alice.Must("POST", path+"/ban", map[string]any{"user_id": mallory}, nil)
			alice.Must("POST", path+"/ban", map[string]any{"user_id": erin.ID}, nil)
			alice.Must("PUT", path+"/state/m.room.server_acl", map[string]any{"allow": []string{"*"}, "deny": []string{"evil.example"}}, nil)
			last := alice.Send(roomID, "m.room.message", map[string]any{"msgtype": "m.text", "body": "last"})
			peer.Await("the ban", func() bool { return room.Known(last) != nil })
			liesOfJoins(t, peer, room, last, told)
			join := path + "/join?via=" + url.QueryEscape(string(peer.Name))
			dave.Must("POST", join, nil, nil)
			if status, body := erin.Do("POST", join, nil); status != http.StatusForbidden {
				t.Errorf("version %s: who is banned joins: %d %s", version, status, body)
			}
			var member struct {
				Membership string `json:"membership"`
			}
			if alice.Must("GET", path+"/state/m.room.member/"+url.PathEscape(key), nil, &member); member.Membership != "ban" {
				t.Errorf("version %s: who was banned is now %q", version, member.Membership)
			}
			if status, _ := alice.Do("GET", path+"/state/m.room.server_acl", nil); status != http.StatusOK {
				t.Errorf("version %s: the access list is gone", version)
			}
			for _, u := range []*hstest.User{alice, dave} {
				u.Send(roomID, "m.room.message", map[string]any{"msgtype": "m.text", "body": "here"})
			}
			peer.Handle("GET /_matrix/federation/v1/make_join/{room}/{user}", nil)
			peer.Handle("PUT /_matrix/federation/v2/send_join/{room}/{event}", nil)
		}
	})
}

// liesOfJoins has a peer let anybody into a room behind an event of it, and tell of another state than the one there.
func liesOfJoins(t *testing.T, peer *hstest.Peer, room *hstest.Room, behind id.EventID, told []json.RawMessage) {
	peer.Handle("GET /_matrix/federation/v1/make_join/{room}/{user}", func(w http.ResponseWriter, r *http.Request) {
		var auth []id.EventID
		for _, typ := range []string{event.TypeCreate, event.TypePowerLevels, event.TypeJoinRules, event.TypeMember} {
			if key := map[string]string{event.TypeMember: string(peer.User("bob"))}[typ]; typ != event.TypeCreate || !room.Version.NoCreateInAuthEvents {
				auth = append(auth, room.State(typ, key).ID)
			}
		}
		user := r.PathValue("user")
		template, err := room.Version.Template(event.Proto{
			Type: event.TypeMember, StateKey: &user, Sender: id.UserID(user), RoomID: room.ID, OriginServerTS: time.Now().UnixMilli(),
			Content:    json.RawMessage(`{"membership":"join","join_authorised_via_users_server":"` + string(peer.User("bob")) + `"}`),
			PrevEvents: []id.EventID{behind}, AuthEvents: auth, Depth: 20,
		})
		if err != nil {
			t.Error(err)
		}
		hstest.Answer(http.StatusOK, map[string]any{"room_version": room.Version.ID, "event": json.RawMessage(template)})(w, r)
	})
	peer.Handle("PUT /_matrix/federation/v2/send_join/{room}/{event}", func(w http.ResponseWriter, r *http.Request) {
		var raw json.RawMessage
		err := json.NewDecoder(r.Body).Decode(&raw)
		if err != nil {
			t.Error(err)
		}
		ev, err := event.Parse(room.Version, raw)
		if err == nil {
			ev, err = ev.Sign(peer.Name, peer.Key)
		}
		if err != nil {
			t.Error(err)
			return
		}
		hstest.Answer(http.StatusOK, map[string]any{"origin": peer.Name, "event": json.RawMessage(ev.JSON), "state": told, "auth_chain": told, "members_omitted": false})(w, r)
	})
}
