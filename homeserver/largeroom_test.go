package homeserver_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
)

// TestLargeRooms: rooms of much state are joined from another server, and read, whole, though no answer is held as a whole.
func TestLargeRooms(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, bob := one.Register("alice"), two.Register("bob")
		room := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		const n = 60
		for i := range n {
			alice.Must("PUT", fmt.Sprintf("/v3/rooms/%s/state/test.large/%d", room, i), map[string]string{"x": strings.Repeat("x", 50_000)}, nil)
		}
		bob.Must("POST", "/v3/join/"+string(room)+"?server_name="+string(one.Name), map[string]any{}, nil)
		for _, u := range []*hstest.User{alice, bob} {
			var state []struct{ Type string }
			u.Must("GET", "/v3/rooms/"+string(room)+"/state", nil, &state)
			large := 0
			for _, ev := range state {
				if ev.Type == "test.large" {
					large++
				}
			}
			if large != n {
				t.Errorf("%s reads %d of %d", u.ID, large, n)
			}
			var members struct{ Joined map[string]any }
			u.Must("GET", "/v3/rooms/"+string(room)+"/joined_members", nil, &members)
			if len(members.Joined) != 2 {
				t.Errorf("%s sees %d members", u.ID, len(members.Joined))
			}
		}
	})
}
