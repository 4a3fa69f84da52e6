package homeserver_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Users of one server are as much strangers to each other as users of two.
func TestRedactionTakesPower(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob := s.Register("alice"), s.Register("bob")
		for _, version := range []string{"1", "10", "12"} {
			room := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": version})
			bob.Must("POST", "/v3/join/"+string(room), nil, nil)
			path := "/v3/rooms/" + string(room)
			said := alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "hello"})
			var state []struct {
				Type   string     `json:"type"`
				Sender id.UserID  `json:"sender"`
				ID     id.EventID `json:"event_id"`
			}
			alice.Must("GET", path+"/state", nil, &state)
			events := map[string]id.EventID{"message": said}
			for _, ev := range state {
				if ev.Sender == alice.ID {
					events[ev.Type] = ev.ID
				}
			}
			for what, event := range events {
				bob.Refused("PUT", path+"/redact/"+string(event)+"/of"+what, nil, 403, "M_FORBIDDEN")
				if what == "m.room.create" {
					alice.Refused("PUT", path+"/redact/"+string(event)+"/of"+what, nil, 403, "M_FORBIDDEN")
				}
			}
			if version != "1" { // there, the ID's server decides
				bob.Refused("PUT", path+"/redact/$unknown/1", nil, 404, "M_NOT_FOUND")
			}
			own := bob.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "oops"})
			bob.Must("PUT", path+"/redact/"+string(own)+"/own", nil, nil)
			others := bob.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "spam"})
			alice.Must("PUT", path+"/redact/"+string(others)+"/others", nil, nil)
			for event, want := range map[id.EventID]bool{said: true, own: false, others: false} {
				var shown struct {
					Content map[string]any `json:"content"`
				}
				alice.Must("GET", path+"/event/"+string(event), nil, &shown)
				if (len(shown.Content) > 0) != want {
					t.Errorf("version %s: the content is %v", version, shown.Content)
				}
			}
		}
	})
}

// A redacted name is gone from where it was copied to, too.
func TestRedactedStateIsGone(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob := s.Register("alice"), s.Register("bob")
		room := alice.CreateRoom(map[string]any{"visibility": "public", "preset": "private_chat"})
		path := "/v3/rooms/" + string(room)
		name := map[string]any{"name": "secret name"}
		var first, second struct {
			ID id.EventID `json:"event_id"`
		}
		alice.Must("PUT", path+"/state/m.room.name", name, &first)
		alice.Must("PUT", path+"/redact/"+string(first.ID)+"/1", nil, nil)
		alice.Must("POST", path+"/invite", map[string]any{"user_id": bob.ID}, nil)
		for _, shown := range []string{"/v3/publicRooms", "/v3/sync"} {
			if _, body := bob.Do("GET", shown, nil); strings.Contains(string(body), "secret name") {
				t.Errorf("%s shows a redacted name: %s", shown, body)
			}
		}
		alice.Must("PUT", path+"/state/m.room.name", name, &second)
		if second.ID == first.ID {
			t.Error("setting the name again answers the redacted event")
		}
	})
}

// What a moderator redacts may be here no more than its ID: the servers that have it hear of the redaction all the same.
func TestRedactionsOfTheUnknownGoOut(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		alice := s.Register("alice")
		roomID := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		room := peer.Join(roomID, peer.User("eve"))
		unknown := room.Message("never sent to this server")
		var answer struct {
			ID id.EventID `json:"event_id"`
		}
		alice.Must("PUT", "/v3/rooms/"+string(roomID)+"/redact/"+string(unknown.ID)+"/1", nil, &answer)
		peer.Await("the redaction", func() bool { return room.Known(answer.ID) != nil })
	})
}

// TestWithheldRedactionsChangeTheState: a redaction that nobody is shown is an event of the room all the same. What the
// state becomes with it, by a fork perhaps, the database and clients hear of.
func TestWithheldRedactionsChangeTheState(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		alice := s.Register("alice")
		roomID := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": "11"})
		room := peer.Join(roomID, peer.User("one"))
		eve := string(peer.User("two"))
		join := room.Event(event.Proto{Type: "m.room.member", StateKey: &eve, Sender: id.UserID(eve), Content: json.RawMessage(`{"membership":"join"}`)})
		// By its time it comes before the join, so that the join wins where the two meet.
		leave := room.Event(event.Proto{Type: "m.room.member", StateKey: &eve, Sender: id.UserID(eve), Content: json.RawMessage(`{"membership":"leave"}`), OriginServerTS: 1000})
		if refused := peer.Send(join, leave); len(refused) > 0 {
			t.Fatal(refused)
		}
		var first struct {
			Next string `json:"next_batch"`
		}
		alice.Must("GET", "/v3/sync", nil, &first)
		content := json.RawMessage(`{"redacts":"$unknownunknownunknownunknownunknownunknown12"}`)
		fork := room.Event(event.Proto{Type: "m.room.redaction", Content: content, PrevEvents: []id.EventID{join.ID}})
		if refused := peer.Send(fork); len(refused) > 0 {
			t.Fatal(refused)
		}
		_, body := alice.Do("GET", "/v3/sync?timeout=0&since="+first.Next, nil)
		if !strings.Contains(string(body), string(join.ID)) || strings.Contains(string(body), string(fork.ID)) {
			t.Errorf("the client is told %s", body)
		}
		var membership string
		err := s.Store.View(t.Context(), func(tx *store.Tx) error {
			r, err := tx.Rooms.ByID(roomID)
			if err != nil {
				return err
			}
			m, err := tx.Memberships.Get(r.NID, id.UserID(eve))
			membership = m.Membership
			return err
		})
		if err != nil || membership != "join" {
			t.Errorf("the membership is %q, %v", membership, err)
		}
		if status, _ := alice.Do("GET", "/v3/rooms/"+string(roomID)+"/event/"+string(fork.ID), nil); status != 404 {
			t.Errorf("the redaction is answered with %d", status)
		}
	})
}
