package clientapi_test

import (
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
)

// TestFieldsThatClientsNeed asks for what released clients take no answer without.
func TestFieldsThatClientsNeed(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		for _, path := range []string{"/v3/devices", "/v3/devices/" + string(alice.Device)} {
			status, body := alice.Do("GET", path, nil)
			for _, member := range []string{`"display_name":null`, `"last_seen_ip":`, `"last_seen_ts":`} {
				if status != 200 || !strings.Contains(string(body), member) {
					t.Errorf("%s lacks %s: %s", path, member, body)
				}
			}
		}
		var profile struct {
			Name string `json:"displayname"`
		}
		if alice.Must("GET", "/v3/profile/"+string(alice.ID), nil, &profile); profile.Name != "alice" {
			t.Errorf("a new account is called %q", profile.Name)
		}
		// Who reads forwards gets to the newest message, and from there to those that come later.
		room := alice.CreateRoom(map[string]any{})
		path := "/v3/rooms/" + string(room) + "/messages?dir=f&limit=100"
		var page struct {
			Start, End string
			Chunk      []any
		}
		alice.Must("GET", path, nil, &page)
		if len(page.Chunk) == 0 || page.End == "" {
			t.Fatalf("no end at the newest message: %+v", page)
		}
		newest := page.End
		page.End = ""
		if alice.Must("GET", path+"&from="+newest, nil, &page); len(page.Chunk) > 0 || page.End != "" {
			t.Errorf("behind the newest message: %+v", page)
		}
		alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "later"})
		if alice.Must("GET", path+"&from="+newest, nil, &page); len(page.Chunk) != 1 || page.End == "" {
			t.Errorf("what came later: %+v", page)
		}
	})
}
