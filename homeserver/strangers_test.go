package homeserver_test

import (
	"bytes"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
)

// Who is not in a room learns nothing of its members by trying to change their memberships: all answers are alike.
func TestStrangersLearnNoMembers(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob, carol, stranger := s.Register("alice"), s.Register("bob"), s.Register("carol"), s.Register("stranger")
		room := alice.CreateRoom(map[string]any{"preset": "private_chat", "invite": []any{carol.ID}})
		path := "/v3/rooms/" + string(room)
		alice.Must("POST", path+"/ban", map[string]any{"user_id": bob.ID}, nil)
		ask := func(method, path string, body map[string]any) string {
			status, answer := stranger.Do(method, path, body)
			if status != 403 {
				t.Errorf("%s %s answered %d %s", method, path, status, answer)
			}
			return string(answer)
		}
		for _, what := range []string{"ban", "kick", "unban", "invite"} {
			asked := map[string]bool{}
			for _, who := range []*hstest.User{alice, bob, carol} {
				asked[ask("POST", path+"/"+what, map[string]any{"user_id": who.ID})] = true
			}
			if asked[ask("POST", path+"/"+what, map[string]any{"user_id": "@nobody:one.test"})] = true; len(asked) != 1 {
				t.Errorf("%s: the answers differ: %v", what, asked)
			}
		}
		ask("PUT", path+"/state/m.room.member/"+string(bob.ID), map[string]any{"membership": "ban"})
		ask("PUT", path+"/state/m.room.member/"+string(alice.ID), map[string]any{"membership": "join", "displayname": "alice"})
		// What is so already is no error for who may say so.
		alice.Must("POST", path+"/ban", map[string]any{"user_id": bob.ID}, nil)
	})
}

// What an erased user wrote is seen by those who were there, and by nobody who comes later.
func TestErasedMessagesInSync(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob, late, known := s.Register("alice"), s.Register("bob"), s.Register("late"), s.Register("known")
		var before struct {
			Next string `json:"next_batch"`
		}
		known.Must("GET", "/v3/sync", nil, &before)
		room := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		join := "/v3/join/" + string(room)
		bob.Must("POST", join, nil, nil)
		bob.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "to be forgotten"})
		alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "stays"})
		bob.Must("POST", "/v3/account/deactivate", map[string]any{"erase": true, "auth": map[string]any{
			"type": "m.login.password", "identifier": map[string]any{"type": "m.id.user", "user": bob.ID}, "password": "wordpass-bob",
		}}, nil)
		late.Must("POST", join, nil, nil)
		known.Must("POST", join, nil, nil)
		for user, want := range map[*hstest.User]bool{alice: true, late: false, known: false} {
			path := "/v3/sync"
			if user == known {
				path += "?since=" + before.Next
			}
			status, answer := user.Do("GET", path, nil)
			if status != 200 || !bytes.Contains(answer, []byte("stays")) || bytes.Contains(answer, []byte("to be forgotten")) != want {
				t.Errorf("%s syncs %d %s", user.ID, status, answer)
			}
		}
	})
}
