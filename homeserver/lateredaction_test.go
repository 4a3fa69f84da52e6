package homeserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// redactionOf makes a redaction of a peer's user, in the form of the room's version.
func redactionOf(room *hstest.Room, sender id.UserID, target id.EventID, prev ...id.EventID) *event.Event {
	p := event.Proto{Type: event.TypeRedaction, Sender: sender, PrevEvents: prev, Redacts: target}
	if room.Version.ID != "10" {
		p.Redacts, p.Content = "", json.RawMessage(`{"redacts":"`+string(target)+`"}`)
	}
	return room.Event(p)
}

// expectRedacted checks whether a user sees an event redacted.
func expectRedacted(t *testing.T, u *hstest.User, room id.RoomID, what string, event id.EventID, want bool) {
	t.Helper()
	var got struct {
		Content map[string]any `json:"content"`
	}
	u.Must("GET", "/v3/rooms/"+url.PathEscape(string(room))+"/event/"+url.PathEscape(string(event)), nil, &got)
	if (len(got.Content) == 0) != want {
		t.Errorf("%s: %s has the content %v", room, what, got.Content)
	}
}

func setMember(room *hstest.Room, sender, user id.UserID, membership string) *event.Event {
	key := string(user)
	return room.Event(event.Proto{Type: event.TypeMember, StateKey: &key, Sender: sender, Content: json.RawMessage(`{"membership":"` + membership + `"}`)})
}

// hide has a peer's server send an event that follows another one, which is known as missing afterwards: history to fetch.
func hide(t *testing.T, peer *hstest.Peer, room *hstest.Room, sender id.UserID, prev ...id.EventID) {
	t.Helper()
	message := event.Proto{Type: "m.room.message", Sender: sender, PrevEvents: prev}
	n := room.Event(message)
	message.PrevEvents = []id.EventID{n.ID}
	peer.Handle("POST /_matrix/federation/v1/get_missing_events/{room}", hstest.Answer(http.StatusOK, map[string]any{"events": []json.RawMessage{n.JSON}}))
	defer peer.Handle("POST /_matrix/federation/v1/get_missing_events/{room}", nil)
	if refused := peer.Send(room.Event(message)); len(refused) > 0 {
		t.Fatal(refused)
	}
}

// TestRedactionsServedAsHistory: a server serves redactions as history. Those of what is from our time, or in force, are held
// against the current state: who was banned redacts nothing, nor does who left redact state; who left may take back
// messages, and moderators redact. What was redacted before we came is redacted, whoever did it.
func TestRedactionsServedAsHistory(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		for i := range 15 { // each version with each redaction
			version, which := []id.RoomVersion{"10", "11", "12"}[i%3], i/3
			alice := s.Register(fmt.Sprint("alice", i))
			owner, bob, mallory := peer.User("owner"), peer.User("bob"), peer.User("mallory")
			room := peer.Create(version, owner)
			users, key := map[string]int{string(mallory): 50, string(bob): 50, string(alice.ID): 90}, ""
			if version != "12" {
				users[string(owner)] = 100
			}
			levels, _ := json.Marshal(map[string]any{"users": users})
			room.Event(event.Proto{Type: event.TypePowerLevels, StateKey: &key, Content: levels})
			setMember(room, mallory, mallory, "join")
			old := room.Message("long ago")
			inForce := room.Event(event.Proto{Type: "m.room.topic", StateKey: &key, Content: json.RawMessage(`{"topic":"theirs"}`)})
			redactionOf(room, mallory, old.ID)
			redactionOf(room, mallory, inForce.ID)
			setMember(room, owner, mallory, "leave")
			alice.Must("POST", "/v3/join/"+url.PathEscape(string(room.ID))+"?server_name="+url.QueryEscape(string(peer.Name)), map[string]any{}, nil)
			back, joined := setMember(room, mallory, mallory, "join"), setMember(room, bob, bob, "join")
			said := room.Event(event.Proto{Type: "m.room.message", Sender: bob, Content: json.RawMessage(`{"body":"oops"}`)})
			name := room.Event(event.Proto{Type: "m.room.name", Sender: bob, StateKey: &key, Content: json.RawMessage(`{"name":"bob's"}`)})
			if refused := peer.Send(back, joined, said, name); len(refused) > 0 {
				t.Fatal(refused)
			}
			message := alice.Send(room.ID, "m.room.message", map[string]any{"msgtype": "m.text", "body": "precious"})
			spam := alice.Send(room.ID, "m.room.message", map[string]any{"msgtype": "m.text", "body": "spam"})
			path := "/v3/rooms/" + url.PathEscape(string(room.ID))
			var acl struct {
				ID id.EventID `json:"event_id"`
			}
			alice.Must("PUT", path+"/state/m.room.server_acl", map[string]any{"allow": []string{"*"}, "allow_ip_literals": true}, &acl)
			alice.Must("POST", path+"/ban", map[string]any{"user_id": mallory}, nil)
			peer.Await("the ban", func() bool {
				m := room.State(event.TypeMember, string(mallory))
				return m != nil && m.Membership() == "ban"
			})
			end := room.Ends()
			gone := setMember(room, bob, bob, "leave")
			if refused := peer.Send(gone); len(refused) > 0 {
				t.Fatal(refused)
			}
			r := []*event.Event{
				redactionOf(room, mallory, message, name.ID), redactionOf(room, mallory, acl.ID, name.ID),
				redactionOf(room, bob, said.ID, end...), redactionOf(room, bob, name.ID, end...), redactionOf(room, owner, spam, end...),
			}[which]
			hide(t, peer, room, owner, gone.ID, r.ID)
			scrollBack(alice, room.ID, 8)
			expectRedacted(t, alice, room.ID, "a message, by who is banned", message, false)
			expectRedacted(t, alice, room.ID, "the access list, by who is banned", acl.ID, false)
			expectRedacted(t, alice, room.ID, "the topic in force, by who was kicked", inForce.ID, false)
			expectRedacted(t, alice, room.ID, "a state, by its sender who left", name.ID, false)
			expectRedacted(t, alice, room.ID, "a message, by its sender who left", said.ID, which == 2)
			expectRedacted(t, alice, room.ID, "a message, by who has the power", spam, which == 4)
			expectRedacted(t, alice, room.ID, "what was redacted before we came", old.ID, true)
		}
	})
}

// TestRedactionsThatComeFirst: who lost the power sends a redaction that forks from before, and then comes what it redacts. It
// does as little as with the event first; one from when its sender had the power takes effect, though the power is lost when the
// event comes.
func TestRedactionsThatComeFirst(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		other := hstest.NewPeer(t, s)
		for _, version := range []string{"10", "11", "12"} {
			alice := s.Register("alice" + version)
			mallory := peer.User("mallory")
			users := map[string]any{string(mallory): 50}
			if version != "12" {
				users[string(alice.ID)] = 100
			}
			roomID := alice.CreateRoom(map[string]any{"room_version": version, "preset": "public_chat", "power_level_content_override": map[string]any{"users": users}})
			room := peer.Join(roomID, mallory)
			fork := room.Ends()
			theirs := other.Join(roomID, other.User("carol"))
			early, late := theirs.Message("early"), theirs.Message("late")
			own := room.Message("own")
			send := func(p *hstest.Peer, events ...*event.Event) {
				t.Helper()
				if refused := p.Send(events...); len(refused) > 0 {
					t.Fatal(refused)
				}
			}
			send(peer, redactionOf(room, mallory, early.ID, fork...))
			delete(users, string(mallory))
			alice.Must("PUT", "/v3/rooms/"+url.PathEscape(string(roomID))+"/state/m.room.power_levels", map[string]any{"users": users}, nil)
			// As many as may wait: they take no place from one that has effect.
			for range 4 {
				send(peer, redactionOf(room, mallory, late.ID, fork...))
			}
			send(peer, redactionOf(room, mallory, own.ID, fork...))
			// What waits does so in the database.
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
			s.Start()
			send(other, early, late)
			send(peer, own)
			expectRedacted(t, alice, roomID, "what was redacted with power", early.ID, true)
			expectRedacted(t, alice, roomID, "what was redacted without", late.ID, false)
			expectRedacted(t, alice, roomID, "what is of the same server", own.ID, true)
		}
	})
}
