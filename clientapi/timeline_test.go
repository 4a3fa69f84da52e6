package clientapi_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// clientEvent is an event as a client reads it.
type clientEvent struct {
	ID      id.EventID     `json:"event_id"`
	RoomID  id.RoomID      `json:"room_id"`
	Type    string         `json:"type"`
	Content map[string]any `json:"content"`
}

type chunk struct {
	Start string        `json:"start"`
	End   string        `json:"end"`
	Next  string        `json:"next_batch"`
	Chunk []clientEvent `json:"chunk"`
	State []clientEvent `json:"state"`
}

func say(u *hstest.User, room id.RoomID, body string) id.EventID {
	return u.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": body})
}

// What counts is the event, in its canonical form, and not how a client writes it.
func TestTheLimitOfAnEventIsOnItsCanonicalForm(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		path := "/v3/rooms/" + string(alice.CreateRoom(map[string]any{}))
		body := func(letters int) []byte { return []byte(`{"body":"` + strings.Repeat(`\u0436`, letters) + `"}`) }
		for i, to := range []string{"/send/org.example.long/t", "/state/org.example.long/"} {
			alice.Must("PUT", path+to, body(11_000+i), nil)
			alice.Refused("PUT", path+to+"x", body(33_000), 413, "M_TOO_LARGE")
			alice.Refused("PUT", path+to+"y", body(100_000), 413, "M_TOO_LARGE")
		}
	})
}

// TestLargeEventsCountAsMany: who sends much in few events may do so less often.
func TestLargeEventsCountAsMany(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		path := "/v3/rooms/" + string(alice.CreateRoom(map[string]any{}))
		large := map[string]any{"body": strings.Repeat("x", 40<<10)}
		first := alice.Send(id.RoomID(strings.TrimPrefix(path, "/v3/rooms/")), "org.example.small", map[string]any{}) // one of 40
		alice.Must("PUT", path+"/send/org.example.large/1", large, nil)                                               // eleven more
		alice.Must("PUT", path+"/state/org.example.large/", large, nil)
		alice.Must("PUT", path+"/redact/"+string(first)+"/2", large, nil)
		for _, to := range []string{"/send/org.example.large/3", "/state/org.example.large/x", "/redact/" + string(first) + "/4"} {
			alice.Refused("PUT", path+to, large, 429, "M_LIMIT_EXCEEDED") // one each
		}
		alice.Must("PUT", path+"/send/org.example.small/5", map[string]any{}, nil)
	}, func(c *config.Config) {
		c.Limits.Enabled, c.Limits.Message.PerUser = true, config.Rate{Count: 40, Per: time.Hour}
	})
}

// TestAliasesOfOthersAreLookups: naming aliases that other servers are asked for counts as looking them up.
func TestAliasesOfOthersAreLookups(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		path := "/v3/rooms/" + string(alice.CreateRoom(map[string]any{})) + "/state/m.room.canonical_alias"
		named := map[string]any{"alt_aliases": []string{"#far:elsewhere.test"}}
		alice.Refused("PUT", path, named, 400, "M_BAD_ALIAS")
		alice.Refused("PUT", path, named, 429, "M_LIMIT_EXCEEDED")
	}, func(c *config.Config) {
		c.Limits.Enabled, c.Limits.Lookup.PerAddress = true, config.Rate{Count: 2, Per: time.Hour} // signing up is one
	})
}

// TestReadRoom goes once through every endpoint that reads a room.
func TestReadRoom(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		roomID := alice.CreateRoom(map[string]any{"preset": "private_chat", "name": "A room"})
		room := "/v3/rooms/" + string(roomID)
		root := say(alice, roomID, "root")
		answer := alice.Send(roomID, "m.room.message", map[string]any{"msgtype": "m.text", "body": "answer", "m.relates_to": map[string]any{"rel_type": "m.thread", "event_id": root}})

		var page chunk
		alice.Must("GET", room+"/messages?dir=b&limit=2&filter="+url.QueryEscape(`{"lazy_load_members":true}`), nil, &page)
		if len(page.Chunk) != 2 || page.Chunk[0].ID != answer || page.Chunk[0].RoomID != roomID || page.End == "" || len(page.State) != 1 {
			t.Errorf("messages: %+v", page)
		}
		var ev clientEvent
		alice.Must("GET", room+"/event/"+string(root), nil, &ev)
		if ev.ID != root {
			t.Errorf("event: %+v", ev)
		}
		var around struct {
			Before []clientEvent `json:"events_before"`
			After  []clientEvent `json:"events_after"`
		}
		alice.Must("GET", room+"/context/"+string(root)+"?limit=2", nil, &around)
		if len(around.Before) != 1 || len(around.After) != 1 || around.After[0].ID != answer {
			t.Errorf("context: %+v", around)
		}
		var state []clientEvent
		alice.Must("GET", room+"/state", nil, &state)
		if len(state) < 6 {
			t.Errorf("state: %+v", state)
		}
		for _, path := range []string{"/state/m.room.name", "/state/m.room.name/"} {
			var name map[string]string
			alice.Must("GET", room+path, nil, &name)
			if name["name"] != "A room" {
				t.Errorf("%s: %v", path, name)
			}
		}
		alice.Must("GET", room+"/state/m.room.member/"+string(alice.ID)+"?format=event", nil, &ev)
		if ev.Type != "m.room.member" || ev.Content["membership"] != "join" {
			t.Errorf("member: %+v", ev)
		}
		alice.Must("GET", room+"/members", nil, &page)
		if len(page.Chunk) != 1 {
			t.Errorf("members: %+v", page.Chunk)
		}
		var joined struct {
			Joined map[id.UserID]json.RawMessage `json:"joined"`
		}
		alice.Must("GET", room+"/joined_members", nil, &joined)
		if got := string(joined.Joined[alice.ID]); got != `{"display_name":"alice","avatar_url":null}` {
			t.Errorf("joined members: %s", got)
		}
		for _, path := range []string{"", "/m.thread", "/m.thread/m.room.message"} {
			alice.Must("GET", strings.Replace(room, "v3", "v1", 1)+"/relations/"+string(root)+path, nil, &page)
			if len(page.Chunk) != 1 || page.Chunk[0].ID != answer {
				t.Errorf("relations%s: %+v", path, page.Chunk)
			}
		}
		alice.Must("GET", strings.Replace(room, "v3", "v1", 1)+"/threads", nil, &page)
		if len(page.Chunk) != 1 || page.Chunk[0].ID != root {
			t.Errorf("threads: %+v", page.Chunk)
		}
		alice.Must("GET", strings.Replace(room, "v3", "v1", 1)+"/timestamp_to_event?dir=b&ts="+fmt.Sprint(time.Now().UnixMilli()+1000), nil, &ev)
		if ev.ID != answer {
			t.Errorf("timestamp_to_event: %s", ev.ID)
		}
		var found struct {
			Categories struct {
				RoomEvents struct {
					Count   int `json:"count"`
					Results []struct {
						Result clientEvent `json:"result"`
					} `json:"results"`
				} `json:"room_events"`
			} `json:"search_categories"`
		}
		alice.Must("POST", "/v3/search", map[string]any{"search_categories": map[string]any{"room_events": map[string]any{"search_term": "root"}}}, &found)
		if f := found.Categories.RoomEvents; f.Count != 1 || f.Results[0].Result.ID != root {
			t.Errorf("search: %+v", f)
		}
		var snapshot map[string]json.RawMessage
		alice.Must("GET", room+"/initialSync", nil, &snapshot)
		if len(snapshot["state"]) == 0 || len(snapshot["messages"]) == 0 {
			t.Errorf("initialSync: %v", snapshot)
		}
	})
}

// TestReadRoomRefused is what the same endpoints refuse.
func TestReadRoomRefused(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice, eve := s.Register("alice"), s.Register("eve")
		roomID := alice.CreateRoom(map[string]any{"preset": "private_chat", "name": "A room"})
		room := "/v3/rooms/" + string(roomID)
		root := say(alice, roomID, "root")
		v1 := strings.Replace(room, "v3", "v1", 1)
		for _, path := range []string{"/messages?dir=b", "/state", "/state/m.room.name", "/members", "/joined_members", "/initialSync"} {
			eve.Refused("GET", room+path, nil, 403, "M_FORBIDDEN")
		}
		eve.Refused("GET", v1+"/threads", nil, 403, "M_FORBIDDEN")
		eve.Refused("GET", v1+"/timestamp_to_event?dir=f&ts=1", nil, 403, "M_FORBIDDEN")
		for _, path := range []string{room + "/event/", room + "/context/", v1 + "/relations/"} {
			eve.Refused("GET", path+string(root), nil, 404, "M_NOT_FOUND")
		}
		alice.Refused("GET", room+"/messages?dir=x", nil, 400, "M_INVALID_PARAM")
		alice.Refused("GET", room+"/messages?dir=b&from=x", nil, 400, "M_INVALID_PARAM")
		alice.Refused("GET", room+"/messages?dir=b&limit=-1", nil, 400, "M_INVALID_PARAM")
		alice.Refused("GET", room+"/messages?dir=b&filter=x", nil, 400, "M_BAD_JSON")
		alice.Refused("GET", room+"/state/m.room.topic", nil, 404, "M_NOT_FOUND")
		alice.Refused("GET", v1+"/threads?include=x", nil, 400, "M_INVALID_PARAM")
		alice.Refused("GET", v1+"/timestamp_to_event?dir=f", nil, 400, "M_MISSING_PARAM")
		alice.Refused("POST", "/v3/search", map[string]any{"search_categories": map[string]any{"room_events": map[string]any{}}}, 400, "M_MISSING_PARAM")
	})
}

// TestReadOlderFromAfar pages through the history of a room of another server, which has to be fetched: after a first
// join, and after a gap.
func TestReadOlderFromAfar(t *testing.T) {
	hstest.EachPair(t, func(t *testing.T, one, two *hstest.Server) {
		alice, bob := one.Register("alice"), two.Register("bob")
		roomID := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		room := string(roomID)
		var said []id.EventID
		talk := func() {
			for i := range 25 {
				said = append(said, say(alice, roomID, fmt.Sprint("m", i)))
			}
		}
		join := func() { bob.Must("POST", "/v3/join/"+room+"?server_name="+string(one.Name), nil, nil) }
		talk()
		join()
		var nearest clientEvent
		bob.Must("GET", "/v1/rooms/"+room+"/timestamp_to_event?dir=f&ts=1", nil, &nearest)
		var state []clientEvent
		alice.Must("GET", "/v3/rooms/"+room+"/state", nil, &state)
		if nearest.ID != state[0].ID {
			t.Errorf("the first event is %s, want %s", nearest.ID, state[0].ID)
		}
		if got := readAll(bob, room); fmt.Sprint(got) != fmt.Sprint(said) {
			t.Errorf("bob reads %v, want %v", got, said)
		}

		again := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		room, roomID, said = string(again), again, nil
		join()
		bob.Must("POST", "/v3/rooms/"+room+"/leave", nil, nil)
		alice.Await("somebody leave", func(answer []byte) bool { return strings.Contains(string(answer), `"content":{"membership":"leave"}`) })
		talk()
		join()
		if got := readAll(bob, room); fmt.Sprint(got) != fmt.Sprint(said) {
			t.Errorf("after a gap bob reads %v, want %v", got, said)
		}
	})
}

// readAll pages back through a room's messages and returns them oldest first.
func readAll(u *hstest.User, room string) []id.EventID {
	var got []id.EventID
	for from, pages := "", 0; pages < 20; pages++ {
		path := "/v3/rooms/" + room + "/messages?dir=b&limit=10"
		if from != "" {
			path += "&from=" + from
		}
		var page chunk
		u.Must("GET", path, nil, &page)
		for _, ev := range page.Chunk {
			if ev.Type == "m.room.message" {
				got = append(got, ev.ID)
			}
		}
		if from = page.End; from == "" {
			break
		}
	}
	slices.Reverse(got)
	return got
}

// TestSendRefusesBadContent: what is no JSON, no object, or no canonical JSON is told apart.
func TestSendRefusesBadContent(t *testing.T) {
	s := hstest.New(t)
	alice := s.Register("alice")
	room := "/v3/rooms/" + string(alice.CreateRoom(map[string]any{"preset": "private_chat"}))
	for content, code := range map[string]string{
		``: "M_NOT_JSON", `{"body":`: "M_NOT_JSON", "{\"body\":\"\x81\"}": "M_NOT_JSON", `{} {}`: "M_NOT_JSON",
		`[]`: "M_BAD_JSON", ` null`: "M_BAD_JSON", `{"n":1.5}`: "M_BAD_JSON", `{"n":1,"n":2}`: "M_BAD_JSON",
	} {
		alice.Refused("PUT", room+"/send/org.example.any/1", []byte(content), 400, code)
		alice.Refused("PUT", room+"/state/m.room.topic", []byte(content), 400, code)
	}
	for _, content := range []string{`{"body":"no type"}`, `{"msgtype":"m.text"}`, `{"msgtype":1,"body":"x"}`, `{"msgtype":"m.text","body":{}}`} {
		alice.Refused("PUT", room+"/send/m.room.message/1", []byte(content), 400, "M_BAD_JSON")
	}
}

// TestPageSize: a page of large events ends before its limit, and the next one goes on there.
func TestPageSize(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		const most = 18 // of events of some 60 kB: with the last one a page has reached a MiB
		alice := s.Register("alice")
		roomID := alice.CreateRoom(map[string]any{})
		room := "/v3/rooms/" + string(roomID)
		sent := make([]id.EventID, most+2)
		for i := range sent {
			sent[i] = alice.Send(roomID, "m.room.message", map[string]any{"msgtype": "m.text", "body": strings.Repeat("x", 60_000)})
		}
		var page struct {
			End   string        `json:"end"`
			Chunk []clientEvent `json:"chunk"`
		}
		alice.Must("GET", room+"/messages?dir=b&limit=1000", nil, &page)
		if len(page.Chunk) != most || page.Chunk[most-1].ID != sent[2] {
			t.Fatalf("%d events in one page", len(page.Chunk))
		}
		alice.Must("GET", room+"/messages?dir=b&limit=1000&from="+page.End, nil, &page)
		if len(page.Chunk) < 3 || page.Chunk[0].ID != sent[1] || page.Chunk[1].ID != sent[0] {
			t.Errorf("the next page: %d events", len(page.Chunk))
		}
		var around struct {
			End   string        `json:"end"`
			After []clientEvent `json:"events_after"`
		}
		alice.Must("GET", room+"/context/"+string(sent[0])+"?limit=100", nil, &around)
		if len(around.After) != most {
			t.Fatalf("%d events behind another", len(around.After))
		}
		alice.Must("GET", room+"/messages?dir=f&limit=100&from="+around.End, nil, &page)
		if len(page.Chunk) != 1 || page.Chunk[0].ID != sent[most+1] {
			t.Errorf("behind the context: %d events", len(page.Chunk))
		}
	})
}
