package hstest_test

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// read is what a user is shown of an event.
func read(u *hstest.User, room id.RoomID, eventID id.EventID) int {
	status, _ := u.Do("GET", "/v3/rooms/"+string(room)+"/event/"+url.PathEscape(string(eventID)), nil)
	return status
}

func TestPeerTakesPart(t *testing.T) {
	s := hstest.NewFederating(t)
	evil := hstest.NewPeer(t, s)
	alice := s.Register("alice")
	for _, version := range event.Versions() {
		roomID := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": version})
		room := evil.Join(roomID, evil.User("eve"))
		first := room.Message("first")
		second := room.Message("second")
		fork := room.Event(event.Proto{Type: "org.example.fork", PrevEvents: first.PrevEvents})
		if refused := evil.Send(first, second, fork); len(refused) > 0 {
			t.Errorf("version %s: %v", version, refused)
		}
		for _, ev := range []*event.Event{first, second, fork} {
			if status := read(alice, roomID, ev.ID); status != http.StatusOK {
				t.Errorf("version %s: %s: %d", version, ev.Type, status)
			}
		}
		sent := alice.Send(roomID, "m.room.message", map[string]any{"msgtype": "m.text", "body": "hello"})
		evil.Await("alice's message", func() bool { return room.Known(sent) != nil })

		// Behind a gap: the server under test has to ask.
		gap := room.Message("gap")
		last := room.Message("last")
		if refused := evil.Send(last); len(refused) > 0 {
			t.Errorf("version %s: behind a gap: %v", version, refused)
		}
		if read(alice, roomID, gap.ID) != http.StatusOK || read(alice, roomID, last.ID) != http.StatusOK {
			t.Errorf("version %s: the gap is not filled", version)
		}
	}
}

func TestPeerHasRooms(t *testing.T) {
	s := hstest.NewFederating(t)
	evil := hstest.NewPeer(t, s)
	alice := s.Register("alice")
	for _, version := range []id.RoomVersion{"1", "6", "10", "11", "12"} {
		room := evil.Create(version, evil.User("eve"))
		alice.Must("POST", "/v3/join/"+url.PathEscape(string(room.ID))+"?server_name="+string(evil.Name), nil, nil)
		hello := room.Message("hello")
		if refused := evil.Send(hello); len(refused) > 0 || read(alice, room.ID, hello.ID) != http.StatusOK {
			t.Errorf("version %s: %v", version, refused)
		}
		if ev := room.State(event.TypeMember, string(alice.ID)); ev == nil || ev.Membership() != "join" {
			t.Errorf("version %s: alice is not there", version)
		}
	}
}

func TestPeerIsHostile(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, evil *hstest.Peer) {
		alice := s.Register("alice")
		profile := "/v3/profile/" + url.PathEscape(string(evil.User("eve"))) + "/displayname"
		const asked = "GET /_matrix/federation/v1/query/profile"
		evil.Handle(asked, hstest.Answer(200, map[string]any{"displayname": "a liar"}))
		var answer struct {
			Name string `json:"displayname"`
		}
		alice.Must("GET", profile, nil, &answer)
		if answer.Name != "a liar" || evil.Asked(asked) != 1 {
			t.Errorf("the lie is %q, asked %d times", answer.Name, evil.Asked(asked))
		}
		evil.SetDown(true)
		if status, _ := alice.Do("GET", "/v3/profile/"+url.PathEscape(string(evil.User("other"))), nil); status == http.StatusOK {
			t.Error("it is not down")
		}
		evil.SetDown(false)

		roomID := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		room := evil.Join(roomID, evil.User("eve"))
		evil.SendJSON(room.Forge(event.Proto{Type: "m.room.message"}, map[string]any{"depth": "deep", "sender": nil}), json.RawMessage(`5`))
		good := room.Message("good")
		if refused := evil.Send(good); len(refused) > 0 || read(alice, roomID, good.ID) != http.StatusOK {
			t.Errorf("after nonsense: %v", refused)
		}

		// Slow both ways, from another address.
		evil.From = netip.MustParseAddr("127.0.0.9")
		request := hstest.Slowly(evil.Request("PUT", "/v1/send/slow", map[string]any{"pdus": []any{}}), 3, time.Millisecond)
		if status, body, err := evil.Try(request); status != http.StatusOK {
			t.Errorf("slowly: %d %s %v", status, body, err)
		}
	})
}
