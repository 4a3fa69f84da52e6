package homeserver_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// follower is a client that takes over the state of a room as it is told.
type follower struct {
	*hstest.User
	room         id.RoomID
	filter, next string
	known        map[event.StateKeyTuple]string // event type and state key: the content
}

// sync takes over the next answers, until nothing new is to be had.
func (f *follower) sync() {
	for range 3 {
		type told struct {
			Type     string          `json:"type"`
			StateKey *string         `json:"state_key"`
			Content  json.RawMessage `json:"content"`
		}
		var a struct {
			Next  string `json:"next_batch"`
			Rooms struct {
				Join map[id.RoomID]struct{ State, Timeline struct{ Events []told } }
			}
		}
		f.Must("GET", "/v3/sync?timeout=0&since="+url.QueryEscape(f.next)+"&filter="+url.QueryEscape(f.filter), nil, &a)
		f.next = a.Next
		for _, e := range append(a.Rooms.Join[f.room].State.Events, a.Rooms.Join[f.room].Timeline.Events...) {
			if e.StateKey != nil {
				f.known[event.StateKeyTuple{Type: e.Type, StateKey: *e.StateKey}] = string(e.Content)
			}
		}
	}
}

// now is a piece of the room's current state.
func (f *follower) now(t event.StateKeyTuple) string {
	_, body := f.Do("GET", "/v3/rooms/"+url.PathEscape(string(f.room))+"/state/"+t.Type+"/"+url.PathEscape(t.StateKey), nil)
	return string(body)
}

func follow(u *hstest.User, room id.RoomID, filter string) *follower {
	return &follower{User: u, room: room, filter: filter, known: map[event.StateKeyTuple]string{}}
}

// joinOf is a join of the peer's user.
func joinOf(room *hstest.Room, user id.UserID) *event.Event {
	key := string(user)
	return room.Event(event.Proto{Type: event.TypeMember, StateKey: &key, Sender: user, Content: json.RawMessage(`{"membership":"join"}`)})
}

// TestMembersAtForkedPosition: a message of another server crosses with a ban of ours and is the last event. Who asks for the
// members at that time, as clients that load members lazily do, hears of the ban, and of who came in since.
func TestMembersAtForkedPosition(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		alice := s.Register("alice")
		bob, mallory := peer.User("bob"), peer.User("mallory")
		for _, version := range []string{"10", "11", "12"} {
			roomID := alice.CreateRoom(map[string]any{"room_version": version, "preset": "public_chat"})
			path := "/v3/rooms/" + url.PathEscape(string(roomID))
			room := peer.Join(roomID, bob)
			peer.Send(joinOf(room, mallory))
			crossed := room.Message("sent before the ban was seen")
			alice.Must("POST", path+"/ban", map[string]any{"user_id": mallory}, nil)
			carol := s.Register("carol" + version)
			carol.Must("POST", "/v3/join/"+url.PathEscape(string(roomID)), nil, nil)
			if refused := peer.Send(crossed); len(refused) > 0 {
				t.Fatal(refused)
			}
			f := follow(s.Login("alice"), roomID, `{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}`)
			f.sync()
			alice.Send(roomID, "m.room.message", map[string]any{"body": "later", "msgtype": "m.text"})
			alice.Must("POST", path+"/kick", map[string]any{"user_id": carol.ID}, nil)
			var list struct {
				Chunk []struct {
					StateKey id.UserID `json:"state_key"`
					Content  struct{ Membership string }
				}
			}
			alice.Must("GET", path+"/members?at="+url.QueryEscape(f.next), nil, &list)
			got := map[id.UserID]string{}
			for _, c := range list.Chunk {
				got[c.StateKey] = c.Content.Membership
			}
			if got[mallory] != "ban" || got[carol.ID] != "join" || got[alice.ID] != "join" || got[bob] != "join" {
				t.Errorf("version %s: the members are %v", version, got)
			}
		}
	})
}

// TestFollowingForks: another server's events demote who kicked somebody, and promote them again: each time the state is
// resolved anew, and the client is told, also if much happened elsewhere in between.
func TestFollowingForks(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		alice := s.Register("alice")
		bob, carol, dave := peer.User("bob"), peer.User("carol"), peer.User("dave")
		for _, version := range []string{"10", "12"} {
			levels := func(carols int) map[string]any {
				users := map[id.UserID]int{bob: 90, carol: carols, alice.ID: 100}
				if version == "12" {
					delete(users, alice.ID)
				}
				return map[string]any{"users": users, "events": map[string]any{event.TypePowerLevels: 80}}
			}
			roomID := alice.CreateRoom(map[string]any{"room_version": version, "preset": "public_chat", "power_level_content_override": levels(50)})
			elsewhere := alice.CreateRoom(map[string]any{})
			room := peer.Join(roomID, bob)
			peer.Send(joinOf(room, carol))
			peer.Send(joinOf(room, dave))
			base := room.Ends()
			demoted := func(carols int, prev ...id.EventID) *event.Event {
				content := map[string]any{}
				if err := json.Unmarshal(room.State(event.TypePowerLevels, "").Content, &content); err != nil {
					t.Fatal(err)
				}
				content["users"] = levels(carols)["users"]
				raw, _ := json.Marshal(content)
				none := ""
				return room.Event(event.Proto{Type: event.TypePowerLevels, StateKey: &none, Sender: bob, Content: raw, PrevEvents: prev})
			}
			f := follow(alice, roomID, "")
			check := func(when string) {
				t.Helper()
				f.sync()
				who := event.StateKeyTuple{Type: event.TypeMember, StateKey: string(dave)}
				if now := f.now(who); now != f.known[who] {
					t.Errorf("version %s, %s: dave is %s, the client knows %s", version, when, now, f.known[who])
				}
			}
			check("at first")
			key := string(dave)
			kick := room.Event(event.Proto{Type: event.TypeMember, StateKey: &key, Sender: carol, Content: json.RawMessage(`{"membership":"leave"}`), PrevEvents: base})
			behind := room.Event(event.Proto{Type: "m.room.message", Sender: carol, Content: json.RawMessage(`{"body":"m","msgtype":"m.text"}`), PrevEvents: []id.EventID{kick.ID}})
			down := demoted(0, base...)
			for _, step := range []struct {
				name string
				ev   *event.Event
			}{{"kicked", kick}, {"the kicker has no power", down}, {"a message behind the kick", behind}, {"the kicker has power again", demoted(50, down.ID)}} {
				peer.Send(step.ev)
				check(step.name)
				alice.Send(elsewhere, "m.room.message", map[string]any{"body": "x", "msgtype": "m.text"})
				f.sync()
			}
		}
	})
}

// TestHiddenEventsMoveState: a message that the client's filter hides ties branches together, so that the state changes.
func TestHiddenEventsMoveState(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		alice := s.Register("alice")
		bob := peer.User("bob")
		roomID := alice.CreateRoom(map[string]any{"room_version": "10", "preset": "public_chat", "power_level_content_override": map[string]any{
			"users": map[string]any{string(alice.ID): 100, string(bob): 90},
		}})
		room := peer.Join(roomID, bob)
		topic := event.StateKeyTuple{Type: "m.room.topic"}
		for i, filter := range []string{`{}`, `{"room":{"timeline":{"not_types":["m.room.message"]}}}`, `{"room":{"timeline":{"types":["m.room.topic"]}}}`} {
			now := time.Now().UnixMilli()
			set := func(text string, ts int64) *event.Event {
				return room.Event(event.Proto{Type: topic.Type, StateKey: &topic.StateKey, Content: json.RawMessage(fmt.Sprintf(`{"topic":"%s%d"}`, text, i)), OriginServerTS: ts})
			}
			newer, older := set("newer", now), set("older", now-100_000)
			peer.Send(newer, older)
			f := follow(s.Login("alice"), roomID, filter)
			f.sync()
			peer.Send(room.Event(event.Proto{Type: "m.room.message", Content: json.RawMessage(`{"body":"x","msgtype":"m.text"}`), PrevEvents: []id.EventID{newer.ID}}))
			f.sync()
			if now := f.now(topic); now != f.known[topic] {
				t.Errorf("filter %s: the topic is %s, the client knows %s", filter, now, f.known[topic])
			}
			peer.Send(room.Message("tie"))
		}
	})
}

// TestContextOfAFork: a message of another server crosses with a change of ours. The state around it is that of the room, with
// the change, and not that of the message's branch alone.
func TestContextOfAFork(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		alice := s.Register("alice")
		roomID := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		room := peer.Join(roomID, peer.User("bob"))
		crossed := room.Message("sent before the topic was seen")
		path := "/v3/rooms/" + url.PathEscape(string(roomID))
		alice.Must("PUT", path+"/state/m.room.topic", map[string]any{"topic": "ours"}, nil)
		if refused := peer.Send(crossed); len(refused) > 0 {
			t.Fatal(refused)
		}
		var around struct{ State []struct{ Type string } }
		alice.Must("GET", path+"/context/"+url.PathEscape(string(crossed.ID)), nil, &around)
		if !slices.ContainsFunc(around.State, func(e struct{ Type string }) bool { return e.Type == "m.room.topic" }) {
			t.Errorf("the topic is missing in %v", around.State)
		}
	})
}
