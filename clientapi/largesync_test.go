package clientapi_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

const largePiece = 60_000

// largeRoom makes a room with so much state.
func largeRoom(u *hstest.User, size int) id.RoomID {
	room := u.CreateRoom(map[string]any{"preset": "public_chat"})
	for i := range size / largePiece {
		u.Must("PUT", fmt.Sprintf("/v3/rooms/%s/state/test.large/%d", room, i), map[string]any{"x": strings.Repeat("x", largePiece)}, nil)
	}
	return room
}

// TestLargeStateGoesOutInPieces: what an answer does not hold arrives all the same, on both ways, and nothing is taken up then.
func TestLargeStateGoesOutInPieces(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		const size = 20 << 20
		alice := s.Register("alice")
		room := largeRoom(alice, size)
		check := func(way string, raw []byte) {
			var got struct {
				Rooms struct {
					Join map[id.RoomID]struct {
						State, Timeline struct{ Events []json.RawMessage }
					}
				}
			}
			if err := json.Unmarshal(raw, &got); err != nil {
				t.Errorf("%s: %v", way, err)
			}
			j := got.Rooms.Join[room]
			if told := len(j.State.Events) + len(j.Timeline.Events); told < size/largePiece+5 {
				t.Errorf("%s: %d events are told", way, told)
			}
		}
		_, raw := alice.Do("GET", "/v3/sync", nil)
		check("HTTP", raw)
		a := dial(t, s, nil, bearer(alice))
		_, raw, err := a.conn.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		check("a websocket", raw)
		noneHeld(t, s)
	})
}

// noneHeld waits until answers that were refused or read take up nothing.
func noneHeld(t *testing.T, s *hstest.Server) {
	t.Helper()
	waittest.Until(t, "no answer takes up anything", func() bool { return s.Sync.Answers.Held() == 0 })
}

// TestUnreadSyncsMakeRoom: a large answer that a client does not read is lost once others need the room, and does not pass for
// the whole.
func TestUnreadSyncsMakeRoom(t *testing.T) {
	for name, size := range map[string]int{"whole": 14 << 20, "in pieces": 30 << 20} {
		t.Run(name, func(t *testing.T) {
			hstest.Each(t, func(t *testing.T, s *hstest.Server) {
				alice, bob := s.Register("alice"), s.Register("bob")
				largeRoom(alice, size)
				largeRoom(bob, 1<<20)
				c, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_, err = fmt.Fprintf(c, "GET /_matrix/client/v3/sync HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", alice.Token)
				if err != nil {
					t.Fatal(err)
				}
				answer, err := http.ReadResponse(bufio.NewReader(c), nil) // its head: from now on it is lost if need be
				if err != nil {
					t.Fatal(err)
				}
				defer answer.Body.Close()
				stage := &s.Sync.Answers
				rest := stage.Charge("the rest", nil)
				defer rest.End()
				if err := rest.Grow(stage.All - stage.Held() + load.Free); err != nil {
					t.Fatal(err)
				}
				bob.Must("GET", "/v3/sync", nil, nil)
				if n, err := io.Copy(io.Discard, answer.Body); err == nil {
					t.Errorf("who made room got the whole of %d bytes", n)
				}
			})
		})
	}
}

// TestRefusedLargeSyncs: who asks for a large answer while there is no room for it is told to come back.
func TestRefusedLargeSyncs(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		largeRoom(alice, 1<<20)
		rest := s.Sync.Answers.Charge("the rest", nil)
		if err := rest.Grow(s.Sync.Answers.All + load.Free); err != nil {
			t.Fatal(err)
		}
		alice.Refused("GET", "/v3/sync", nil, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED")
		dial(t, s, nil, bearer(alice)).ends(1008)
		rest.End()
		alice.Must("GET", "/v3/sync", nil, nil)
		noneHeld(t, s)
	})
}
