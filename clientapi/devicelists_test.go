package clientapi_test

import (
	"slices"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestDevicesWithoutKeysAreListed: whoever shares a room with a user hears that a device came or went, also one that never
// had keys.
func TestDevicesWithoutKeysAreListed(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob := s.Register("alice"), s.Register("bob")
		room := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		bob.Must("POST", "/v3/join/"+string(room), nil, nil)
		var answer struct {
			Next  string `json:"next_batch"`
			Lists struct {
				Changed []id.UserID `json:"changed"`
			} `json:"device_lists"`
		}
		bob.Must("GET", "/v3/sync", nil, &answer)
		changed := func(what string) {
			t.Helper()
			answer.Lists.Changed = nil
			bob.Must("GET", "/v3/sync?since="+answer.Next, nil, &answer)
			if !slices.Contains(answer.Lists.Changed, alice.ID) {
				t.Errorf("a device %s, and %v are listed", what, answer.Lists.Changed)
			}
		}
		second := s.Login("alice")
		changed("came")
		alice.Must("PUT", "/v3/devices/"+string(second.Device), map[string]any{"display_name": "new"}, nil)
		changed("was renamed")
		second.Must("POST", "/v3/logout", nil, nil)
		changed("went")
	})
}
