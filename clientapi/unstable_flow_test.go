package clientapi_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestReleasedClients calls what clients of the last years call by names from before the specification.
func TestReleasedClients(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob := s.Register("alice"), s.Register("bob")
		room := alice.CreateRoom(map[string]any{"room_alias_name": "hall", "preset": "public_chat", "name": "Hall", "room_version": "11"})
		bob.Must("POST", "/r0/rooms/"+string(room)+"/join", nil, nil)
		for _, path := range []string{"/unstable/keys/device_signing/upload", "/unstable/room_keys/version"} {
			if status, body := alice.Do("POST", path, map[string]any{"algorithm": "x", "auth_data": map[string]any{}}); status == 404 {
				t.Errorf("%s: %s", path, body)
			}
		}
		alice.Must("POST", "/unstable/keys/signatures/upload", map[string]any{}, nil)
		said := alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "hm"})
		for _, test := range []struct{ path, want string }{
			{"im.nheko.summary/summary/" + string(room), `"im.nheko.summary.room_version":"11"`},
			{"im.nheko.summary/rooms/%23hall:one.test/summary", `"room_version":"11"`},
			{"uk.half-shot.msc2666/user/mutual_rooms?user_id=@bob:one.test", `{"joined":["` + string(room) + `"]}`},
			{"uk.half-shot.msc2666/user/mutual_rooms/@bob:one.test", `"joined":["` + string(room) + `"]`},
			{"uk.half-shot.msc2666/user/shared_rooms/@bob:one.test", `"joined":["` + string(room) + `"]`},
			{"org.matrix.msc2432/rooms/" + string(room) + "/aliases", `#hall:one.test`},
			{"org.matrix.msc2946/rooms/" + string(room) + "/hierarchy", `"rooms":[`},
			{"org.matrix.msc3030/rooms/" + string(room) + "/timestamp_to_event?ts=1&dir=f", `"event_id"`},
			{"org.matrix.msc3856/rooms/" + string(room) + "/threads", `"chunk":[`},
			{"org.matrix.msc3916/media/config", `"m.upload.size"`},
			{"org.matrix.msc4143/rtc/transports", `{"rtc_transports":[]}`},
			{"uk.tcpip.msc4133/profile/@bob:one.test", `{`},
			{"rooms/" + string(room) + "/relations/" + string(said) + "/m.annotation", `"chunk":[]`},
		} {
			if status, body := alice.Do("GET", "/unstable/"+test.path, nil); status != 200 || !strings.Contains(string(body), test.want) {
				t.Errorf("%s: %d %s", test.path, status, body)
			}
		}
		alice.Must("PUT", "/unstable/uk.tcpip.msc4133/profile/"+string(alice.ID)+"/m.tz", map[string]any{"m.tz": "Europe/Paris"}, nil)
		var sent struct {
			ID id.EventID `json:"event_id"`
		}
		alice.Must("POST", "/r0/rooms/"+string(room)+"/send/m.room.message", map[string]any{"msgtype": "m.text", "body": "no name"}, &sent)
		for _, event := range []id.EventID{said, sent.ID} {
			alice.Must("POST", "/r0/rooms/"+string(room)+"/redact/"+string(event), nil, nil)
			var got struct {
				Content map[string]json.RawMessage `json:"content"`
			}
			if alice.Must("GET", "/v3/rooms/"+string(room)+"/event/"+string(event), nil, &got); len(got.Content) > 0 {
				t.Errorf("not redacted: %v", got)
			}
		}
	})
}
