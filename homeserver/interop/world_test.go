package interop

import (
	"net/url"
	"os"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// full skips the test unless slow ones were asked for.
func full(t *testing.T) {
	t.Helper()
	if os.Getenv("SECURECOMM_TEST_FULL") == "" {
		t.Skip("runs in .ci/run full, where SECURECOMM_TEST_FULL is set")
	}
}

// onTheWire are the types of a room's events that are not state, as the server has them, but those of verifications.
func onTheWire(t *testing.T, u *hstest.User, room id.RoomID) (types []string) {
	t.Helper()
	from := ""
	for {
		var page struct {
			End   string `json:"end"`
			Chunk []struct {
				Type     string  `json:"type"`
				StateKey *string `json:"state_key"`
			} `json:"chunk"`
		}
		u.Must("GET", "/v3/rooms/"+string(room)+"/messages?dir=b&limit=100&from="+url.QueryEscape(from), nil, &page)
		for _, ev := range page.Chunk {
			if ev.StateKey == nil {
				types = append(types, ev.Type)
			}
		}
		if page.End == "" || len(page.Chunk) == 0 {
			return types
		}
		from = page.End
	}
}

// onlyCiphertext fails the test if anything but ciphertext went through a room, or less than so many events.
func onlyCiphertext(t *testing.T, u *hstest.User, room id.RoomID, atLeast int) {
	t.Helper()
	types := onTheWire(t, u, room)
	if len(types) < atLeast {
		t.Errorf("%d events went over the wire, want %d and more", len(types), atLeast)
	}
	for _, typ := range types {
		if typ != "m.room.encrypted" {
			t.Errorf("%s went over the wire in an encrypted room", typ)
		}
	}
}
