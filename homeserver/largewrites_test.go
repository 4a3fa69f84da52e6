package homeserver_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// hourly has a user send count messages at once, and then as good as none, and join as often as they like.
func hourly(count int) hstest.Option {
	return func(c *config.Config) {
		c.Limits = config.Default().Limits
		c.Limits.Message.PerUser = config.Rate{Count: count, Per: time.Hour}
		c.Limits.Join = config.Class{PerUser: config.Rate{Count: 1000, Per: time.Hour}}
		c.Limits.Registration, c.Limits.Login = config.Class{}, config.Class{}
	}
}

// TestLargeEventsCountOnAllWays sends events of 60 KB on each way that clients have: as large ones, they count as several calls.
func TestLargeEventsCountOnAllWays(t *testing.T) {
	long := strings.Repeat("x", 60_000)
	content, reason := map[string]any{"x": long}, map[string]any{"reason": long}
	about := func(i int) map[string]any {
		return map[string]any{"user_id": fmt.Sprintf("@u%d:one.test", i), "reason": long}
	}
	ways := []struct {
		method, path string // ROOM, N and USER stand for a room, a number and who asks
		body         func(i int) map[string]any
	}{
		{"PUT", "rooms/ROOM/send/x.y/N", func(int) map[string]any { return content }},
		{"PUT", "rooms/ROOM/state/x.y/N", func(int) map[string]any { return content }},
		{"PUT", "rooms/ROOM/state/m.room.member/USER", func(int) map[string]any { return map[string]any{"membership": "join", "x": long} }},
		{"PUT", "rooms/ROOM/redact/$x/N", func(int) map[string]any { return reason }},
		{"POST", "rooms/ROOM/ban", about},
		{"POST", "rooms/ROOM/unban", about},
		{"POST", "rooms/ROOM/kick", about},
		{"POST", "rooms/ROOM/invite", about},
		{"POST", "rooms/ROOM/join", func(int) map[string]any { return content }},
		{"POST", "join/ROOM", func(int) map[string]any { return content }},
		{"POST", "knock/ROOM", func(int) map[string]any { return reason }},
		{"POST", "rooms/ROOM/leave", func(int) map[string]any { return reason }},
		{"POST", "createRoom", func(int) map[string]any {
			return map[string]any{"initial_state": []any{map[string]any{"type": "x.y", "content": content}}}
		}},
		{"PUT", "profile/USER/org.example.x", func(int) map[string]any { return map[string]any{"org.example.x": long} }},
	}
	const tries = 12
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		for n, way := range ways {
			user := s.Register(fmt.Sprintf("user%d", n))
			room := user.CreateRoom(map[string]any{})
			let := 0
			for ; let < tries; let++ {
				path := "/v3/" + strings.NewReplacer(
					"ROOM", url.PathEscape(string(room)), "N", fmt.Sprint(let), "USER", url.PathEscape(string(user.ID))).Replace(way.path)
				if status, body := user.Do(way.method, path, way.body(let)); status == 429 && bytes.Contains(body, []byte("M_LIMIT_EXCEEDED")) {
					break
				}
			}
			if let < 1 || let > 7 {
				t.Errorf("%s %s: %d of 60 KB at once, where 100 small ones may be sent", way.method, way.path, let)
			}
		}
		for _, method := range []string{"send", "state"} {
			if let := sendBySocket(t, s, s.Register("socket"+method), method, content, tries); let < 1 || let > 7 {
				t.Errorf("%s by websocket: %d of 60 KB at once", method, let)
			}
		}
	}, hourly(100))
}

// sendBySocket sends events until one is refused, and says how many were not.
func sendBySocket(t *testing.T, s *hstest.Server, user *hstest.User, method string, content any, tries int) int {
	t.Helper()
	room := user.CreateRoom(map[string]any{})
	address := "ws" + strings.TrimPrefix(s.URL, "http") + "/_matrix/client/unstable/dev.securecomm.stream?access_token=" + user.Token
	conn, answer, err := websocket.DefaultDialer.Dial(address, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer answer.Body.Close()
	for n := range tries {
		params := map[string]any{"room_id": room, "type": "x.y", "content": content}
		if err := conn.WriteJSON(map[string]any{"id": n, "method": method, "params": params}); err != nil {
			t.Fatal(err)
		}
		for {
			var m struct {
				ID    *int `json:"id"`
				Error *struct {
					Code string `json:"errcode"`
				} `json:"error"`
			}
			if err := conn.ReadJSON(&m); err != nil {
				t.Fatal(err)
			}
			if m.ID == nil {
				continue // something that came to pass
			}
			if m.Error != nil && m.Error.Code != "M_LIMIT_EXCEEDED" {
				t.Fatal(m.Error.Code)
			}
			if m.Error != nil {
				return n
			}
			break
		}
	}
	return tries
}

// TestWhatTheServerWritesForAUserCounts has one small call write many events: the next has to wait for them.
func TestWhatTheServerWritesForAUserCounts(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		limited := func(what string, call func() (int, []byte)) {
			t.Helper()
			for n := range 6 {
				if status, body := call(); status == 429 {
					if n == 0 {
						t.Errorf("%s: refused at once: %s", what, body)
					}
					return
				} else if status != 200 {
					t.Fatalf("%s: %d %s", what, status, body)
				}
			}
			t.Errorf("%s is not bounded by what it writes", what)
		}
		alice, bob := s.Register("alice"), s.Register("bob")
		room := alice.CreateRoom(map[string]any{})
		for i := range 20 {
			alice.Must("POST", "/v3/rooms/"+url.PathEscape(string(room))+"/ban", map[string]any{"user_id": fmt.Sprintf("@u%d:one.test", i)}, nil)
		}
		limited("an upgrade", func() (int, []byte) {
			var out struct {
				Room id.RoomID `json:"replacement_room"`
			}
			status, body := alice.Do("POST", "/v3/rooms/"+url.PathEscape(string(room))+"/upgrade", map[string]any{"new_version": "11"})
			if status == 200 {
				if err := json.Unmarshal(body, &out); err != nil {
					t.Fatal(err)
				}
				room = out.Room
			}
			return status, body
		})
		alice.Send(room, "x.y", map[string]any{}) // which is counted apart
		state := make([]any, 30)
		for i := range state {
			state[i] = map[string]any{"type": "x.y", "state_key": fmt.Sprint(i), "content": map[string]any{}}
		}
		limited("a new room", func() (int, []byte) { return bob.Do("POST", "/v3/createRoom", map[string]any{"initial_state": state}) })

		// The largest room costs all that a user may write at once, and no more.
		for i := range 8 {
			state[i] = map[string]any{"type": "x.y", "state_key": fmt.Sprint(i), "content": map[string]any{"x": strings.Repeat("x", 60_000)}}
		}
		s.Register("carol").Must("POST", "/v3/createRoom", map[string]any{"initial_state": state[:8]}, nil)
	}, hourly(100))
}
