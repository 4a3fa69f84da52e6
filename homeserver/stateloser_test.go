package homeserver_test

import (
	"encoding/json"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestStateThatLost: a state event of another server that loses the resolution is shown in the timeline like all else, and
// the answer after it tells what is so instead, at once.
func TestStateThatLost(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		alice := s.Register("alice")
		roomID := alice.CreateRoom(map[string]any{"preset": "public_chat", "power_level_content_override": map[string]any{"events": map[string]any{"m.room.topic": 0}}})
		room := peer.Join(roomID, peer.User("eve"))
		type shown struct {
			Type    string     `json:"type"`
			ID      id.EventID `json:"event_id"`
			Content struct {
				Topic string `json:"topic"`
			} `json:"content"`
		}
		type answer struct {
			Next  string `json:"next_batch"`
			Rooms struct {
				Join map[id.RoomID]struct {
					State    struct{ Events []shown }
					Timeline struct {
						Limited bool
						Events  []shown
					}
				}
			}
		}
		sync := func(since string) (a answer) {
			alice.Must("GET", "/v3/sync?timeout=0&since="+url.QueryEscape(since), nil, &a)
			return a
		}
		before := sync("")
		old := time.Now().Add(-time.Hour).UnixMilli()
		ends := room.Ends()
		topic := ""
		lost := room.Event(event.Proto{Type: "m.room.topic", StateKey: &topic, Content: json.RawMessage(`{"topic":"lost"}`), PrevEvents: ends, OriginServerTS: old})
		said := room.Message("said before")
		alice.Must("PUT", "/v3/rooms/"+string(roomID)+"/state/m.room.topic", map[string]any{"topic": "won"}, nil)
		if refused := peer.Send(lost, said); len(refused) > 0 {
			t.Fatal(refused)
		}
		for name, since := range map[string]string{"next": before.Next, "first": ""} {
			var known string
			apply := func(list []shown) {
				for _, e := range list {
					if e.Type == "m.room.topic" {
						known = e.Content.Topic
					}
				}
			}
			a := sync(since)
			timeline := a.Rooms.Join[roomID].Timeline
			for _, want := range []id.EventID{lost.ID, said.ID} {
				if !slices.ContainsFunc(timeline.Events, func(e shown) bool { return e.ID == want }) {
					t.Errorf("%s: the timeline lacks %s", name, want)
				}
			}
			for range 2 {
				apply(a.Rooms.Join[roomID].State.Events)
				apply(a.Rooms.Join[roomID].Timeline.Events)
				a = sync(a.Next)
			}
			if known != "won" {
				t.Errorf("%s: who follows knows the topic as %q", name, known)
			}
			if len(a.Rooms.Join) > 0 {
				t.Errorf("%s: told again: %+v", name, a.Rooms.Join)
			}
		}
	})
}
