package clientapi_test

import (
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
)

// TestRefusals: what makes no sense is told to the client, and not taken for something else.
func TestRefusals(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		room := alice.CreateRoom(map[string]any{})
		in := "/v3/rooms/" + string(room)
		elsewhere := alice.Send(alice.CreateRoom(map[string]any{}), "m.room.message", map[string]any{"msgtype": "m.text", "body": "hi"})
		here := alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "hi"})
		nowhere := "$" + strings.Repeat("a", 43)
		for _, r := range []struct {
			method, path string
			body         any
			status       int
			code         string
		}{
			{"POST", in + "/receipt/m.read/" + nowhere, nil, 404, "M_NOT_FOUND"},
			{"POST", in + "/receipt/m.read/" + string(elsewhere), nil, 404, "M_NOT_FOUND"},
			{"POST", in + "/receipt/m.read/" + string(here), map[string]any{"thread_id": "zz"}, 400, "M_INVALID_PARAM"},
			{"POST", in + "/read_markers", map[string]any{"m.fully_read": nowhere}, 404, "M_NOT_FOUND"},
			{"POST", in + "/read_markers", map[string]any{"m.read": here, "m.read.private": elsewhere}, 404, "M_NOT_FOUND"},
			{"GET", "/v3/user/" + string(alice.ID) + "/rooms/" + string(room) + "/account_data/m.fully_read", nil, 404, "M_NOT_FOUND"},
			{"POST", "/v3/createRoom", map[string]any{"visibility": "x"}, 400, "M_INVALID_PARAM"},
			{"POST", "/v3/createRoom", map[string]any{"initial_state": []any{map[string]any{"content": map[string]any{}}}}, 400, "M_BAD_JSON"},
			{"PUT", in + "/send/m.room.message/" + strings.Repeat("x", 256), map[string]any{"msgtype": "m.text", "body": "x"}, 400, "M_INVALID_PARAM"},
			{"PUT", in + "/redact/" + string(here) + "/" + strings.Repeat("x", 256), nil, 400, "M_INVALID_PARAM"},
			{"PUT", "/v3/sendToDevice/m.dummy/" + strings.Repeat("x", 256), map[string]any{"messages": map[string]any{}}, 400, "M_INVALID_PARAM"},
			{"GET", "/v3/sync?since=s-5", nil, 400, "M_INVALID_PARAM"},
			{"GET", "/v3/sync?full_state=zz", nil, 400, "M_INVALID_PARAM"},
			{"GET", "/v3/sync?use_state_after=1", nil, 400, "M_INVALID_PARAM"},
			{"GET", "/v3/keys/changes?from=s-5&to=s1", nil, 400, "M_INVALID_PARAM"},
			{"GET", "/v3/notifications?only=zz", nil, 400, "M_INVALID_PARAM"},
			{"GET", in + "/members?membership=zz", nil, 400, "M_INVALID_PARAM"},
			{"GET", in + "/members?not_membership=zz", nil, 400, "M_INVALID_PARAM"},
			{"GET", strings.Replace(in, "v3", "v1", 1) + "/relations/" + string(here) + "?recurse=zz", nil, 400, "M_INVALID_PARAM"},
			{"GET", strings.Replace(in, "v3", "v1", 1) + "/hierarchy?suggested_only=zz", nil, 400, "M_INVALID_PARAM"},
			{"GET", "/v1/media/thumbnail/example.org/x?width=0&height=1", nil, 400, "M_INVALID_PARAM"},
			{"GET", "/v1/media/thumbnail/example.org/x?width=1&height=0", nil, 400, "M_INVALID_PARAM"},
			{"GET", "/v1/media/thumbnail/example.org/x?width=1&height=1&method=zz", nil, 400, "M_INVALID_PARAM"},
			{"GET", "/v1/media/thumbnail/example.org/x?width=1&height=1&animated=zz", nil, 400, "M_INVALID_PARAM"},
			{"GET", "/v1/media/download/example.org/x?allow_remote=zz", nil, 400, "M_INVALID_PARAM"},
		} {
			alice.Refused(r.method, r.path, r.body, r.status, r.code)
		}
		if _, body := alice.Do("POST", "/v3/register", map[string]any{
			"username": "alice", "password": "superuser", "auth": map[string]string{"type": "m.login.dummy"},
		}); strings.Contains(string(body), "register:") || !strings.Contains(string(body), "M_USER_IN_USE") {
			t.Errorf("a name that is taken: %s", body)
		}
		alice.Must("POST", in+"/read_markers", map[string]any{"m.fully_read": here, "m.read": here}, nil)
		var marker struct {
			Event string `json:"event_id"`
		}
		alice.Must("GET", "/v3/user/"+string(alice.ID)+"/rooms/"+string(room)+"/account_data/m.fully_read", nil, &marker)
		if marker.Event != string(here) {
			t.Errorf("the marker is at %s", marker.Event)
		}
	})
}
