package homeserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestInvitesGoOutUnwatched: a room is made with invites for users of a server that says nothing, and its creator stops
// waiting. Those of other servers get theirs.
func TestInvitesGoOutUnwatched(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		alice, bob := one.Register("alice"), two.Register("bob")
		nobody := id.UserID("@nobody:" + silent.Addr().String())
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
		held, err := silent.Accept() // nobody is being invited
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		giveUp()
		<-gone
		bob.Await("an invite", func(answer []byte) bool { return bytes.Contains(answer, []byte(`"invite_state"`)) })
	})
}
