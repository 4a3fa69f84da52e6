package clientapi_test

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

// told is what the answers to /sync tell a user of one room.
type told struct {
	user *hstest.User
	room id.RoomID
	next string

	joined, left  bool                 // where the last answers have the room
	members       map[id.UserID]string // of all answers, applied in order
	changed, gone []id.UserID          // device lists, of the last answers
}

type memberEvents struct {
	Events []struct {
		Type    string    `json:"type"`
		Key     id.UserID `json:"state_key"`
		Content struct {
			Membership string `json:"membership"`
		} `json:"content"`
	} `json:"events"`
}

type roomTold struct {
	State    memberEvents `json:"state"`
	Timeline memberEvents `json:"timeline"`
}

// sync asks twice: a state event that has lost is shown, and the answer after it tells what is so instead.
func (w *told) sync() {
	w.joined, w.left, w.changed, w.gone = false, false, nil, nil
	w.ask()
	w.ask()
}

func (w *told) ask() {
	var answer struct {
		Next  string `json:"next_batch"`
		Rooms struct {
			Join  map[id.RoomID]roomTold `json:"join"`
			Leave map[id.RoomID]roomTold `json:"leave"`
		} `json:"rooms"`
		Lists struct {
			Changed []id.UserID `json:"changed"`
			Left    []id.UserID `json:"left"`
		} `json:"device_lists"`
	}
	w.user.Must("GET", "/v3/sync?since="+url.QueryEscape(w.next), nil, &answer)
	w.next = answer.Next
	w.changed, w.gone = append(w.changed, answer.Lists.Changed...), append(w.gone, answer.Lists.Left...)
	in, joined := answer.Rooms.Join[w.room]
	out, left := answer.Rooms.Leave[w.room]
	w.joined, w.left = w.joined || joined, w.left || left
	for _, part := range []memberEvents{in.State, in.Timeline, out.State, out.Timeline} {
		for _, e := range part.Events {
			if e.Type == event.TypeMember {
				w.members[e.Key] = e.Content.Membership
			}
		}
	}
}

// merger is a room of which alice and bob are told, and in which somebody of another server forks: mal, who has as much
// power as alice has, eve, who may ban, and rob, who has none.
type merger struct {
	*testing.T
	peer          *hstest.Peer
	room          *hstest.Room
	alice, bob    *told
	mal, eve, rob id.UserID
	target        id.UserID    // whose membership is at stake: bob or rob
	fork          []id.EventID // where all branches begin
}

// newMerger makes a room of which alice and bob know. The target joins it before the fork, or behind it.
func newMerger(t *testing.T, s *hstest.Server, peer *hstest.Peer, name string, local, before bool) *merger {
	g := &merger{T: t, peer: peer, mal: peer.User("mal"), eve: peer.User("eve"), rob: peer.User("rob")}
	alice, bob := s.Register("alice-"+name), s.Register("bob-"+name)
	roomID := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": "11", "power_level_content_override": map[string]any{
		"users": map[id.UserID]any{alice.ID: 100, g.mal: 100, g.eve: 50},
	}})
	join := func() {
		if local {
			bob.Must("POST", "/v3/join/"+string(roomID), nil, nil)
		} else {
			peer.Join(roomID, g.rob)
		}
	}
	if g.target = bob.ID; !local {
		g.target = g.rob
	}
	if before {
		join()
	}
	peer.Join(roomID, g.eve)
	g.room = peer.Join(roomID, g.mal)
	if g.fork = g.room.Ends(); !before {
		join()
	}
	g.alice, g.bob = &told{user: alice, room: roomID, members: map[id.UserID]string{}}, &told{user: bob, room: roomID, members: map[id.UserID]string{}}
	g.alice.sync()
	g.bob.sync()
	return g
}

func (g *merger) send(ev *event.Event) {
	g.Helper()
	if refused := g.peer.Send(ev); len(refused) > 0 {
		g.Fatal(refused)
	}
}

// demotion takes a user's power away.
func (g *merger) demotion(of id.UserID) *event.Event {
	g.Helper()
	var content map[string]any
	if err := json.Unmarshal(g.room.State(event.TypePowerLevels, "").Content, &content); err != nil {
		g.Fatal(err)
	}
	content["users"].(map[string]any)[string(of)] = 0
	raw, err := json.Marshal(content)
	if err != nil {
		g.Fatal(err)
	}
	key := ""
	return g.room.Event(event.Proto{Type: event.TypePowerLevels, StateKey: &key, Sender: g.mal, Content: raw, PrevEvents: g.fork})
}

// ban bans the target an hour ago.
func (g *merger) ban(sender id.UserID) *event.Event {
	target := string(g.target)
	return g.room.Event(event.Proto{
		Type: event.TypeMember, StateKey: &target, Sender: sender, Content: json.RawMessage(`{"membership":"ban"}`), PrevEvents: g.fork,
		OriginServerTS: time.Now().Add(-time.Hour).UnixMilli(),
	})
}

// check has all synced, and sees what became of the target.
func (g *merger) check(what, membership string) {
	g.Helper()
	g.alice.sync()
	g.bob.sync()
	joined := membership == "join"
	lists := func(w *told) []id.UserID {
		if joined {
			return w.changed
		}
		return w.gone
	}
	if got := g.alice.members[g.target]; got != membership || !slices.Contains(lists(g.alice), g.target) {
		g.Errorf("%s: alice knows of %q, and of device lists %v and %v", what, got, g.alice.changed, g.alice.gone)
	}
	if g.target != g.bob.user.ID {
		return
	}
	if got := g.bob.members[g.target]; got != membership || g.bob.joined != joined || g.bob.left == joined {
		g.Errorf("%s: bob knows of %q, of a joined room %v, of a left one %v", what, got, g.bob.joined, g.bob.left)
	}
	for _, other := range []id.UserID{g.alice.user.ID, g.mal} {
		if !slices.Contains(lists(g.bob), other) {
			g.Errorf("%s: bob knows of device lists %v and %v, not of %s", what, g.bob.changed, g.bob.gone, other)
		}
	}
	status, _ := g.bob.user.Do("PUT", "/v3/rooms/"+string(g.room.ID)+"/send/m.room.message/1", map[string]any{"msgtype": "m.text", "body": "hi"})
	if (status == 200) != joined || !joined && status != 403 {
		g.Errorf("%s: bob's message is answered %d", what, status)
	}
}

// socket is bob's, who is told of what comes.
func (g *merger) socket(s *hstest.Server) *socket {
	return dial(g.T, s, url.Values{"since": {g.bob.next}}, bearer(g.bob.user))
}

// TestMergedMembership: an event that is no m.room.member, but ties branches of a room together of which one has a ban, tells
// whom it bans or lets in by that, and who shares the room with them, what a member event would.
func TestMergedMembership(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, peer *hstest.Peer) {
		for name, local := range map[string]bool{"local": true, "remote": false} {
			t.Run("a ban of a "+name+" user wins", func(t *testing.T) {
				g := newMerger(t, s, peer, "banned-"+name, local, false)
				g.send(g.demotion(g.mal))
				banned := g.ban(g.mal)
				g.send(banned) // by who has lost the power meanwhile: it is set aside
				g.alice.sync()
				g.bob.sync()
				b := g.socket(s)
				g.send(g.room.Event(event.Proto{Type: "m.room.message", Sender: g.mal, PrevEvents: []id.EventID{banned.ID}}))
				g.check("a message", "ban")
				if local {
					b.until(func(m *message) bool { _, left := m.Rooms.Leave[g.room.ID]; return left })
				}
			})
			t.Run("a ban of a "+name+" user loses", func(t *testing.T) {
				g := newMerger(t, s, peer, "free-"+name, local, true)
				g.send(g.ban(g.eve))
				g.check("a ban", "ban")
				b := g.socket(s)
				g.send(g.demotion(g.eve)) // by who has more power
				g.check("power levels", "join")
				if local {
					b.until(func(m *message) bool { _, joined := m.Rooms.Join[g.room.ID]; return joined })
				}
			})
		}
	})
}
