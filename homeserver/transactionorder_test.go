package homeserver_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
)

// TestKeysComeBeforeEvents: what is sent to devices is there before the events of the same transaction are, since clients may
// try but once to decrypt an event. What else there is comes after them.
func TestKeysComeBeforeEvents(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		alice := s.Register("alice")
		room := peer.Join(alice.CreateRoom(map[string]any{"preset": "public_chat"}), peer.User("eve"))
		missed, said := room.Message("missed"), room.Message("said")
		asked := false
		peer.Handle("POST /_matrix/federation/v1/get_missing_events/{room}", func(w http.ResponseWriter, r *http.Request) {
			if _, answer := alice.Do("GET", "/v3/sync?timeout=0", nil); !bytes.Contains(answer, []byte(`"the key"`)) {
				t.Error("while the events are being taken in, the key is not there yet")
			}
			asked = true
			peer.Honest(w, r)
		})
		status, answer := peer.Transaction([]json.RawMessage{said.JSON},
			hstest.EDU{Type: "m.receipt", Content: fmt.Appendf(nil, `{%q:{"m.read":{%q:{"data":{"ts":1},"event_ids":[%q]}}}}`, room.ID, peer.User("eve"), said.ID)},
			hstest.EDU{Type: "m.direct_to_device", Content: fmt.Appendf(nil,
				`{"sender":%q,"type":"m.room.encrypted","message_id":"m","messages":{%q:{"*":{"body":"the key"}}}}`, peer.User("eve"), alice.ID)})
		if status != http.StatusOK || !asked {
			t.Fatalf("%d %s, asked for what is missing: %v", status, answer, asked)
		}
		alice.Await("the events and the receipt", func(answer []byte) bool {
			return bytes.Contains(answer, []byte(missed.ID)) && bytes.Contains(answer, fmt.Appendf(nil, `{%q:{"m.read":`, said.ID))
		})
	})
}
