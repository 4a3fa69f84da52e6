package homeserver_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// synced is what these tests look at in an answer to /sync.
type synced struct {
	Next     string `json:"next_batch"`
	ToDevice struct {
		Events []struct {
			Content struct{ N int }
		}
	} `json:"to_device"`
	Lists struct{ Changed []id.UserID } `json:"device_lists"`
	Keys  map[string]int                `json:"device_one_time_keys_count"`
	Rooms struct {
		Join map[id.RoomID]struct {
			Timeline struct {
				Limited bool
				Prev    string `json:"prev_batch"`
				Events  []struct {
					Type    string
					Content struct{ Body string }
				}
			}
		}
	}
}

func syncSince(u *hstest.User, since string) (out synced) {
	u.Must("GET", "/v3/sync?since="+url.QueryEscape(since), nil, &out)
	return out
}

// bodies are the messages of a room in an answer.
func (s synced) bodies(room id.RoomID) (out []string) {
	for _, e := range s.Rooms.Join[room].Timeline.Events {
		if e.Type == "m.room.message" {
			out = append(out, e.Content.Body)
		}
	}
	return out
}

// write has alice send messages into a room and to bob's device.
func write(alice, bob *hstest.User, room id.RoomID, life string, events, messages int) {
	for n := range events {
		alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": fmt.Sprint(life, n)})
	}
	for n := range messages {
		content := map[id.UserID]any{bob.ID: map[id.DeviceID]any{bob.Device: map[string]any{"N": n}}}
		alice.Must("PUT", fmt.Sprintf("/v3/sendToDevice/m.test/%s%d", life, n), map[string]any{"messages": content}, nil)
	}
}

func oneTimeKeys(names ...string) map[string]any {
	keys := map[string]any{}
	for _, n := range names {
		keys["signed_curve25519:"+n] = map[string]any{"key": "key" + n}
	}
	return map[string]any{"one_time_keys": keys}
}

// TestRestoredBackup has a client come with tokens from a life of the database that was lost.
func TestRestoredBackup(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		for _, restarted := range []bool{false, true} { // whether the life that was lost was a life of the server's, too
			name := fmt.Sprint("r", restarted)
			alice, bob := s.Register("alice-"+name), s.Register("bob-"+name)
			room := alice.CreateRoom(map[string]any{"preset": "public_chat"})
			bob.Must("POST", "/v3/join/"+string(room), nil, nil)
			bob.Must("POST", "/v3/keys/upload", oneTimeKeys("A", "B"), nil)
			before := syncSince(bob, "")
			restore := s.Backup()
			if restarted {
				restart(t, s)
			}
			write(alice, bob, room, "lost", 12, 5)
			lost := syncSince(bob, before.Next)
			lost = syncSince(bob, lost.Next)
			restore()
			write(alice, bob, room, "new", 5, 12)
			checkRestored(t, bob, room, lost)
			checkHistory(t, bob, room, before, lost)
			if again := syncSince(bob, before.Next); len(again.Lists.Changed) > 1 || again.Rooms.Join[room].Timeline.Limited {
				t.Error("a token from before the backup was not taken")
			}
		}
	})
}

// checkRestored syncs from a token that was lost.
func checkRestored(t *testing.T, bob *hstest.User, room id.RoomID, lost synced) {
	t.Helper()
	var got synced
	for range 2 { // the first answer may not arrive
		got = syncSince(bob, lost.Next)
		if len(got.ToDevice.Events) != 12 {
			t.Errorf("%d to-device messages of 12", len(got.ToDevice.Events))
		}
		if b := got.bodies(room); len(b) < 5 || b[len(b)-5] != "new0" {
			t.Errorf("messages in the room: %q", b)
		}
		if !got.Rooms.Join[room].Timeline.Limited {
			t.Error("what the client has of the room seems to go on")
		}
		if len(got.Lists.Changed) == 0 {
			t.Error("nobody's devices are to be looked at again")
		}
		if got.Keys["signed_curve25519"] != 0 {
			t.Error("one-time keys that may have been given out are still there")
		}
	}
	if next := syncSince(bob, got.Next); len(next.ToDevice.Events)+len(next.Rooms.Join) > 0 {
		t.Errorf("the next answer repeats what was told: %+v", next)
	}
}

// checkHistory reads a room's history backwards from a place that was lost.
func checkHistory(t *testing.T, bob *hstest.User, room id.RoomID, before, lost synced) {
	t.Helper()
	var page struct {
		Chunk []struct{ Content struct{ Body string } }
	}
	bob.Must("GET", "/v3/rooms/"+string(room)+"/messages?dir=f&from="+url.QueryEscape(lost.Next), nil, &page)
	var bodies []string
	for _, e := range page.Chunk {
		bodies = append(bodies, e.Content.Body)
	}
	if raw, _ := json.Marshal(bodies); len(bodies) < 5 {
		t.Errorf("forwards from a place that was lost: %s", raw)
	}
	var changes struct{ Changed []id.UserID }
	bob.Must("GET", "/v3/keys/changes?from="+url.QueryEscape(lost.Next)+"&to="+url.QueryEscape(lost.Next), nil, &changes)
	if len(changes.Changed) == 0 {
		t.Error("no changes of keys since a token that was lost")
	}
}

func restart(t *testing.T, s *hstest.Server) {
	t.Helper()
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s.Start()
}

// TestRestartKeepsTokens has clients go on where they were, however often the server starts again.
func TestRestartKeepsTokens(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob := s.Register("alice"), s.Register("bob")
		room := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		bob.Must("POST", "/v3/join/"+string(room), nil, nil)
		bob.Must("POST", "/v3/keys/upload", oneTimeKeys("A", "B"), nil)
		write(alice, bob, room, "old", 3, 3)
		tokens := []string{syncSince(bob, "").Next}
		for n := range 3 {
			restart(t, s)
			write(alice, bob, room, fmt.Sprint("life", n, "-"), 1, 1)
			for i, token := range tokens {
				got := syncSince(bob, token)
				if i == len(tokens)-1 {
					tokens = append(tokens, got.Next)
				}
				if b := got.bodies(room); len(b) != n+1-i || got.Rooms.Join[room].Timeline.Limited || got.Keys["signed_curve25519"] != 2 {
					t.Errorf("start %d, token %d: %q, %+v", n, i, b, got)
				}
			}
		}
	})
}

// TestRestoredServerIsHeard has another server, which remembers transactions of a life that was lost, hear of the next.
func TestRestoredServerIsHeard(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, bob := one.Register("alice"), two.Register("bob")
		room := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		bob.Must("POST", "/v3/join/"+string(room)+"?server_name="+string(one.Name), nil, nil)
		alice.AwaitMembership(room, bob.ID, "join")
		restore := one.Backup()
		say := func(life string) {
			for n := range 5 {
				body := fmt.Sprint(life, n)
				alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": body})
				bob.Await(body, func(answer []byte) bool {
					var got synced
					if err := json.Unmarshal(answer, &got); err != nil {
						t.Fatal(err)
					}
					for _, b := range got.bodies(room) {
						if b == body {
							return true
						}
					}
					return false
				})
			}
		}
		say("lost")
		restore()
		say("new")
	})
}
