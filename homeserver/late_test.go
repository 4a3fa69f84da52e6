package homeserver_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// latecomer is a user who is told of a room.
type latecomer struct {
	*hstest.User
	room id.RoomID
	next string
}

// told is what a latecomer is shown of an event, in all ways.
type told struct {
	Next, First, Event, Listed, Notified bool
	Unread                               int // in a first answer
}

func (l *latecomer) sync(since string) (shown []id.EventID, unread int, next string) {
	var a struct {
		Next  string `json:"next_batch"`
		Rooms struct {
			Join map[id.RoomID]struct {
				Timeline struct {
					Events []struct {
						ID id.EventID `json:"event_id"`
					}
				}
				Unread struct {
					N int `json:"notification_count"`
				} `json:"unread_notifications"`
			}
		}
	}
	l.Must("GET", "/v3/sync?timeout=0&since="+url.QueryEscape(since), nil, &a)
	for _, e := range a.Rooms.Join[l.room].Timeline.Events {
		shown = append(shown, e.ID)
	}
	return shown, a.Rooms.Join[l.room].Unread.N, a.Next
}

// look asks for an event in all ways.
func (l *latecomer) look(eventID id.EventID) (t told) {
	type one struct {
		ID id.EventID `json:"event_id"`
	}
	var list []id.EventID
	list, _, l.next = l.sync(l.next)
	t.Next = slices.Contains(list, eventID)
	list, t.Unread, _ = l.sync("")
	t.First = slices.Contains(list, eventID)
	path := "/v3/rooms/" + url.PathEscape(string(l.room))
	status, _ := l.Do("GET", path+"/event/"+url.PathEscape(string(eventID)), nil)
	t.Event = status == http.StatusOK
	var page struct{ Chunk []one }
	l.Must("GET", path+"/messages?dir=b&limit=100", nil, &page)
	t.Listed = slices.Contains(page.Chunk, one{eventID})
	var of struct{ Notifications []struct{ Event one } }
	l.Must("GET", "/v3/notifications", nil, &of)
	for _, n := range of.Notifications {
		t.Notified = t.Notified || n.Event.ID == eventID
	}
	return t
}

// TestLateEvents: whether another server's event is shown follows from the state before it, not from when it comes: in a
// history that is for members alone, what was sent before a join is hidden from who came, and what was sent while somebody
// was in the room is shown to them though it came when they were out. A shared history is told to who comes later.
func TestLateEvents(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		dave, alice := s.Register("dave"), s.Register("alice")
		for _, test := range []struct {
			visibility    string
			before, since told
		}{
			{"joined", told{}, told{Next: true, First: true, Event: true, Listed: true}},
			{"invited", told{}, told{Next: true, First: true, Event: true, Listed: true}},
			{"shared", told{true, true, true, true, true, 1}, told{Next: true, First: true, Event: true, Listed: true}},
		} {
			roomID := dave.CreateRoom(map[string]any{"preset": "public_chat", "initial_state": []any{
				map[string]any{"type": event.TypeHistoryVisibility, "content": map[string]any{"history_visibility": test.visibility}},
			}})
			room := peer.Join(roomID, peer.User("bob"))
			send := func(m *event.Event) id.EventID {
				t.Helper()
				if refused := peer.Send(m); len(refused) > 0 {
					t.Fatal(refused)
				}
				return m.ID
			}
			path := "/v3/rooms/" + url.PathEscape(string(roomID))
			join := func() { alice.Must("POST", path+"/join", nil, nil) }
			before := room.Message("sent before alice came")
			join()
			l := &latecomer{User: alice, room: roomID}
			_, _, l.next = l.sync("")
			if got := l.look(send(before)); got != test.before {
				t.Errorf("%s: of what was sent before the join is told %+v", test.visibility, got)
			}

			var came struct {
				ID id.EventID `json:"event_id"`
			}
			alice.Must("GET", path+"/state/m.room.member/"+url.PathEscape(string(alice.ID))+"?format=event", nil, &came)
			peer.Await("alice's join", func() bool { return room.Known(came.ID) != nil })
			since := room.Event(event.Proto{
				Type: "m.room.message", Content: json.RawMessage(`{"body":"sent while alice was there","msgtype":"m.text"}`), PrevEvents: []id.EventID{came.ID},
			})
			alice.Must("POST", path+"/leave", nil, nil)
			send(since)
			join()
			if got := l.look(since.ID); got != test.since {
				t.Errorf("%s: of what was sent before alice left is told %+v", test.visibility, got)
			}
		}
	})
}
