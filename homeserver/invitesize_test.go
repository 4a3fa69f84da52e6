package homeserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// TestInvitesOfAServerAreBoundedInBytes: who has many bytes of invites of one server gets no more of it, and of those that are
// refused nothing is written. What is shown of a room is bounded as well, whatever the other server says of it.
func TestInvitesOfAServerAreBoundedInBytes(t *testing.T) {
	const large, most = 60 << 10, 512 << 10
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		alice, bob := s.Register("alice"), s.Register("bob")
		pad := strings.Repeat("x", large)
		state := []any{}
		for _, typ := range []string{"m.room.name", "m.room.topic", "m.room.avatar", "org.example.more"} {
			content := map[string]any{"x": pad[:7<<10]}
			if typ == "m.room.name" {
				content = map[string]any{"name": "Plans"}
			}
			state = append(state, map[string]any{"type": typ, "state_key": "", "sender": peer.User("eve"), "content": content})
		}
		invite := func(user id.UserID, reason string) (*hstest.Room, int) {
			r := peer.Create("11", peer.User("eve"))
			target := string(user)
			ev := r.Event(event.Proto{Type: event.TypeMember, StateKey: &target, Content: fmt.Appendf(nil, `{"membership":"invite","reason":%q}`, reason)})
			path := "/v2/invite/" + url.PathEscape(string(r.ID)) + "/" + url.PathEscape(string(ev.ID))
			status, _ := peer.Do("PUT", path, map[string]any{"room_version": "11", "invite_room_state": state, "event": json.RawMessage(ev.JSON)})
			return r, status
		}
		taken := 0
		for ; taken <= most/large; taken++ {
			if _, status := invite(alice.ID, pad); status != http.StatusOK {
				break
			}
		}
		if taken < most/large/2 || taken > most/large {
			t.Errorf("%d invites of %d bytes are taken in", taken, large)
		}
		last, status := invite(alice.ID, "hi")
		if status != http.StatusTooManyRequests {
			t.Errorf("a further one is answered with %d", status)
		}
		err := s.Store.View(t.Context(), func(tx *store.Tx) error {
			known, err := tx.Rooms.ByID(last.ID)
			if known != nil {
				t.Error("a room is made for an invite that is refused")
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, status := invite(bob.ID, "hi"); status != http.StatusOK {
			t.Errorf("that of another user with %d", status)
		}
		_, raw := alice.Do("GET", "/v3/sync?timeout=0", nil)
		var answer struct {
			Rooms struct{ Invite map[id.RoomID]json.RawMessage }
		}
		if err := json.Unmarshal(raw, &answer); err != nil || len(answer.Rooms.Invite) != taken {
			t.Fatalf("%d of %d invites are told: %v", len(answer.Rooms.Invite), taken, err)
		}
		for name, shown := range answer.Rooms.Invite {
			if len(shown) > 17<<10 || !strings.Contains(string(shown), `"Plans"`) || !strings.Contains(string(shown), `"invite"`) {
				t.Errorf("%d bytes are shown of %s: %.300s", len(shown), name, shown)
			}
		}
	})
}
