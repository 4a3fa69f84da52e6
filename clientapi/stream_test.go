package clientapi_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// socket is a client's end of a websocket.
type socket struct {
	t    *testing.T
	conn *websocket.Conn
	next string // the token to resume from
}

func dial(t *testing.T, s *hstest.Server, query url.Values, header http.Header) *socket {
	t.Helper()
	d := websocket.Dialer{Subprotocols: []string{"m.json"}}
	address := "ws" + strings.TrimPrefix(s.URL, "http") + "/_matrix/client/unstable/dev.securecomm.stream?" + query.Encode()
	conn, answer, err := d.Dial(address, header)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	t.Cleanup(func() { conn.Close() })
	if conn.Subprotocol() != "m.json" {
		t.Errorf("the subprotocol is %q", conn.Subprotocol())
	}
	return &socket{t: t, conn: conn}
}

func bearer(u *hstest.User) http.Header { return http.Header{"Authorization": {"Bearer " + u.Token}} }

type message struct {
	ID     json.RawMessage `json:"id"`
	Result struct {
		EventID id.EventID `json:"event_id"`
	} `json:"result"`
	Error struct {
		Code string `json:"errcode"`
	} `json:"error"`
	Next  string `json:"next_batch"`
	Rooms struct {
		Join map[id.RoomID]struct {
			Timeline struct {
				Events []struct {
					ID       id.EventID `json:"event_id"`
					Unsigned struct {
						Transaction string `json:"transaction_id"`
					} `json:"unsigned"`
				} `json:"events"`
			} `json:"timeline"`
			Ephemeral struct {
				Events []json.RawMessage `json:"events"`
			} `json:"ephemeral"`
		} `json:"join"`
		Leave map[id.RoomID]json.RawMessage `json:"leave"`
	} `json:"rooms"`
}

// patience is for machines that are much slower than any should be: it only makes a test fail that would hang.
const patience = time.Minute

// until reads until a message is what is wanted.
func (s *socket) until(wanted func(*message) bool) *message {
	s.t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	for {
		_, raw, err := s.conn.ReadMessage()
		if err != nil {
			s.t.Fatal(err)
		}
		var m message
		if err := json.Unmarshal(raw, &m); err != nil {
			s.t.Fatalf("%v in %s", err, raw)
		}
		if m.Next != "" {
			s.next = m.Next
		}
		if wanted(&m) {
			return &m
		}
	}
}

func (s *socket) hasEvent(room id.RoomID, event id.EventID) *message {
	s.t.Helper()
	return s.until(func(m *message) bool {
		for _, e := range m.Rooms.Join[room].Timeline.Events {
			if e.ID == event {
				return true
			}
		}
		return false
	})
}

// ask sends a request and returns the answer to it.
func (s *socket) ask(name, method string, params any) *message {
	s.t.Helper()
	if err := s.conn.WriteJSON(map[string]any{"id": name, "method": method, "params": params}); err != nil {
		s.t.Fatal(err)
	}
	return s.until(func(m *message) bool { return string(m.ID) == `"`+name+`"` })
}

func TestStream(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob := s.Register("alice"), s.Register("bob")
		room := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		bob.Must("POST", "/v3/join/"+string(room), nil, nil)

		a := dial(t, s, nil, bearer(alice))
		a.until(func(m *message) bool { _, ok := m.Rooms.Join[room]; return ok })
		b := dial(t, s, nil, nil)
		if err := b.conn.WriteJSON(map[string]any{"access_token": bob.Token, "filter": map[string]any{"presence": map[string]any{"not_types": []string{"*"}}}}); err != nil {
			t.Fatal(err)
		}
		b.until(func(m *message) bool { _, ok := m.Rooms.Join[room]; return ok })

		send := map[string]any{"room_id": room, "type": "m.room.message", "txn_id": "1", "content": map[string]any{"msgtype": "m.text", "body": "hi"}}
		one := a.ask("a", "send", send).Result.EventID
		if again := a.ask("b", "send", send).Result.EventID; one == "" || again != one {
			t.Errorf("the same transaction made %q and %q", one, again)
		}
		b.hasEvent(room, one)
		topic := map[string]any{"room_id": room, "type": "m.room.topic", "content": map[string]any{"topic": "talk"}}
		b.hasEvent(room, a.ask("c", "state", topic).Result.EventID)
		a.ask("d", "typing", map[string]any{"room_id": room, "typing": true})
		b.until(func(m *message) bool { return len(m.Rooms.Join[room].Ephemeral.Events) > 0 })
		a.ask("e", "receipt", map[string]any{"room_id": room, "event_id": one})
		b.until(func(m *message) bool {
			return len(m.Rooms.Join[room].Ephemeral.Events) > 0 && strings.Contains(string(m.Rooms.Join[room].Ephemeral.Events[0]), string(one))
		})
		for method, code := range map[string]string{
			"dance": "M_UNRECOGNIZED", "send": "M_MISSING_PARAM", "receipt": "M_MISSING_PARAM", "typing": "M_MISSING_PARAM",
		} {
			if m := a.ask("x", method, map[string]any{}); m.Error.Code != code {
				t.Errorf("%s was answered with %+v", method, m)
			}
		}
		if m := a.ask("n", "ping", nil); m.Error.Code != "" {
			t.Errorf("ping with params null was answered with %+v", m)
		}
		if m := a.ask("f", "ping", map[string]any{"since": a.next}); m.Error.Code != "" {
			t.Errorf("ping was answered with %+v", m)
		}
		// What happens while nobody is connected is told to who resumes.
		b.conn.Close()
		two := alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "missed"})
		dial(t, s, url.Values{"since": {b.next}, "access_token": {bob.Token}}, nil).hasEvent(room, two)
	})
}

// TestStreamIsLikeHTTP: the same requests have the same effects and refusals on both ways.
func TestStreamIsLikeHTTP(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, bob := s.Register("alice"), s.Register("bob")
		room := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_alias_name": "here"})
		hi := alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "hi"})
		a := dial(t, s, nil, bearer(alice))
		for name, test := range map[string]struct {
			method string
			params map[string]any
			code   string
		}{
			"an invite":          {"state", map[string]any{"type": "m.room.member", "state_key": bob.ID, "content": map[string]any{"membership": "invite"}}, ""},
			"no user":            {"state", map[string]any{"type": "m.room.member", "state_key": "bob", "content": map[string]any{"membership": "invite"}}, "M_INVALID_PARAM"},
			"no membership":      {"state", map[string]any{"type": "m.room.member", "state_key": bob.ID, "content": map[string]any{}}, "M_BAD_JSON"},
			"the room's alias":   {"state", map[string]any{"type": "m.room.canonical_alias", "content": map[string]any{"alias": "#here:" + string(s.Name)}}, ""},
			"nobody's alias":     {"state", map[string]any{"type": "m.room.canonical_alias", "content": map[string]any{"alias": "#there:" + string(s.Name)}}, "M_BAD_ALIAS"},
			"a receipt":          {"receipt", map[string]any{"event_id": hi, "thread_id": "main"}, ""},
			"an empty thread":    {"receipt", map[string]any{"event_id": hi, "thread_id": ""}, "M_INVALID_PARAM"},
			"no thread":          {"receipt", map[string]any{"event_id": hi, "thread_id": "zz"}, "M_INVALID_PARAM"},
			"nothing to receive": {"receipt", map[string]any{"event_id": "$" + strings.Repeat("a", 43)}, "M_NOT_FOUND"},
			"no event":           {"receipt", map[string]any{}, "M_MISSING_PARAM"},
		} {
			test.params["room_id"] = room
			if m := a.ask(name, test.method, test.params); m.Error.Code != test.code {
				t.Errorf("%s on a websocket: %q, want %q", name, m.Error.Code, test.code)
			}
		}
		bob.Must("POST", "/v3/join/"+string(room), nil, nil)
	})
}

func TestStreamEndsWithItsToken(t *testing.T) {
	s := hstest.New(t)
	alice := s.Register("alice")
	a := dial(t, s, nil, bearer(alice))
	a.until(func(m *message) bool { return m.Next != "" })
	alice.Must("POST", "/v3/logout", nil, nil)
	a.ends(4001)
}

func TestStreamEndsWithTheServer(t *testing.T) {
	s := hstest.New(t)
	a := dial(t, s, nil, bearer(s.Register("alice")))
	a.until(func(m *message) bool { return m.Next != "" })
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	a.ends(websocket.CloseGoingAway)
}

// ends waits until the server closes the connection, and checks the code that it gives.
func (s *socket) ends(code int) {
	s.t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	for {
		_, _, err := s.conn.ReadMessage()
		var closed *websocket.CloseError
		switch {
		case err == nil:
		case errors.As(err, &closed) && closed.Code == code:
			return
		default:
			s.t.Fatalf("the connection ended with %v", err)
		}
	}
}

func TestStreamRefusesStrangers(t *testing.T) {
	s := hstest.New(t)
	a := dial(t, s, nil, nil)
	if err := a.conn.WriteJSON(map[string]any{"access_token": "wrong"}); err != nil {
		t.Fatal(err)
	}
	var closed *websocket.CloseError
	if _, _, err := a.conn.ReadMessage(); !errors.As(err, &closed) || closed.Code != 4001 || closed.Text != "M_UNKNOWN_TOKEN" {
		t.Errorf("a wrong token is answered with %v", err)
	}
	alice := s.Register("alice")
	alice.Refused("GET", "/unstable/dev.securecomm.stream", nil, http.StatusUpgradeRequired, "M_UNKNOWN")
}
