package homeserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestInvitesGoOutUnwatched: a room is made with invites for users of a server that says nothing, and its creator stops
// waiting. Those of other servers get theirs meanwhile.
func TestInvitesGoOutUnwatched(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, bob, carol := one.Register("alice"), two.Register("bob"), two.Register("carol")
		silent := hstest.NewPeer(t, one)
		const invite = "PUT /_matrix/federation/v2/invite/"
		others := make(chan struct{}) // closed once the others have theirs
		rooms := make(chan id.RoomID, 1)
		silent.Handle(invite+"{room}/{event}", func(w http.ResponseWriter, r *http.Request) {
			raw, _ := io.ReadAll(r.Body) // or the end of the connection is not seen
			r.Body = io.NopCloser(bytes.NewReader(raw))
			select {
			case rooms <- id.RoomID(r.PathValue("room")):
			default: // it was asked before
			}
			select {
			case <-others:
				silent.Honest(w, r)
			case <-r.Context().Done():
			}
		})
		nobody := silent.User("nobody")
		body, err := json.Marshal(map[string]any{"invite": []any{nobody, bob.ID}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, giveUp := context.WithCancel(t.Context())
		defer giveUp()
		request, err := http.NewRequestWithContext(ctx, "POST", one.URL+"/_matrix/client/v3/createRoom", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+alice.Token)
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			if response, err := http.DefaultClient.Do(request); err == nil {
				response.Body.Close()
			}
		}()
		room := <-rooms // nobody is being invited
		giveUp()
		<-gone
		alice.CreateRoom(map[string]any{"invite": []any{carol.ID}})
		for _, u := range []*hstest.User{bob, carol} {
			u.Await("an invite", func(answer []byte) bool { return bytes.Contains(answer, []byte(`"invite_state"`)) })
		}
		close(others)
		alice.AwaitMembership(room, nobody, "invite")
		if n := silent.Asked(invite); n != 1 {
			t.Errorf("the others got theirs after the %dth try with the silent server", n-1)
		}
	})
}
