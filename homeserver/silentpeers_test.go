package homeserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// silent has a peer never answer some requests. The function returned says whether any of them waits.
func silent(p *hstest.Peer, pattern string) (waits func() bool) {
	var waiting atomic.Int32
	p.Handle(pattern, func(w http.ResponseWriter, r *http.Request) {
		waiting.Add(1)
		defer waiting.Add(-1)
		p.Silent(w, r)
	})
	return func() bool { return waiting.Load() > 0 }
}

// scrollBack reads so many pages of a room's history at most, and counts the messages that begin with each of some words.
func scrollBack(u *hstest.User, roomID id.RoomID, pages int, words ...string) (seen []int) {
	from := ""
	seen = make([]int, len(words))
	for range pages {
		var page struct {
			Chunk []struct {
				Content struct {
					Body string `json:"body"`
				} `json:"content"`
			} `json:"chunk"`
			End string `json:"end"`
		}
		u.Must("GET", "/v3/rooms/"+url.PathEscape(string(roomID))+"/messages?dir=b&limit=100"+from, nil, &page)
		for _, ev := range page.Chunk {
			for i, w := range words {
				if strings.HasPrefix(ev.Content.Body, w) {
					seen[i]++
				}
			}
		}
		if page.End == "" {
			break
		}
		from = "&from=" + url.QueryEscape(page.End)
	}
	return seen
}

func joinThrough(u *hstest.User, p *hstest.Peer, roomID id.RoomID) {
	u.Must("POST", "/v3/join/"+url.PathEscape(string(roomID))+"?server_name="+url.QueryEscape(string(p.Name)), map[string]any{}, nil)
}

// TestSilentServersHideNoHistory: history comes from a server that has it while the one that everybody would ask first is
// still silent.
func TestSilentServersHideNoHistory(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, mute *hstest.Peer) {
		alice, honest := s.Register("alice"), hstest.NewPeer(t, s)
		r := mute.Create("11", mute.User("admin"))
		for i := range 30 {
			r.Message(fmt.Sprint("old message ", i))
		}
		joinThrough(alice, mute, r.ID)
		honest.Join(r.ID, honest.User("helpful"))
		waits := silent(mute, "GET /_matrix/federation/v1/backfill/{room}")
		honest.Handle("GET /_matrix/federation/v1/", mute.Honest) // it has the same history
		honest.Handle("GET /_matrix/federation/v1/backfill/{room}", func(w http.ResponseWriter, r *http.Request) {
			if !waits() {
				t.Error("a server is asked only when the one before has been given up")
			}
			mute.Honest(w, r)
		})
		// Even if a page is made while none has answered in time.
		if seen := scrollBack(alice, r.ID, 2, "old message"); seen[0] != 30 {
			t.Errorf("%d of 30 old messages are seen", seen[0])
		}
	})
}

// TestInventedGapsHideNoHistory: a member without power names predecessors that never were. The history is shown nonetheless,
// and soon.
func TestInventedGapsHideNoHistory(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, evil *hstest.Peer) {
		alice, honest := s.Register("alice"), hstest.NewPeer(t, s)
		r := honest.Create("11", honest.User("admin"))
		for i := range 30 {
			r.Message(fmt.Sprint("old message ", i))
		}
		joinThrough(alice, honest, r.ID)
		e := evil.Join(r.ID, evil.User("eve"))
		const invented = 25
		for i := range invented {
			behind := e.Event(event.Proto{Type: "m.room.message", Content: json.RawMessage(`{"body":"y"}`), PrevEvents: []id.EventID{id.EventID(fmt.Sprintf("$%043d", i))}, Depth: 100})
			evil.Handle("POST /_matrix/federation/v1/get_missing_events/{room}", hstest.Answer(200, map[string]any{"events": []any{json.RawMessage(behind.JSON)}}))
			evil.Send(e.Event(event.Proto{Type: "m.room.message", Content: json.RawMessage(`{"body":"x"}`), PrevEvents: []id.EventID{behind.ID}, Depth: 101}))
		}
		seen := scrollBack(alice, r.ID, 3, "y", "x", "old message")
		if seen[0] < invented || seen[1] < invented {
			t.Fatalf("only %d of the events with invented predecessors are here", seen[:2])
		}
		if seen[2] != 30 {
			t.Errorf("%d of 30 old messages are seen", seen[2])
		}
	})
}

// TestSilentServersHideNoRooms: what is shown of a room comes from a server that tells while the one named first is still silent.
func TestSilentServersHideNoRooms(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, mute *hstest.Peer) {
		alice, honest := s.Register("alice"), hstest.NewPeer(t, s)
		pattern := "GET /_matrix/federation/v1/hierarchy/{room}"
		waits := silent(mute, pattern)
		honest.Handle(pattern, func(w http.ResponseWriter, r *http.Request) {
			if !waits() {
				t.Error("a server is asked only when the one before has been given up")
			}
			hstest.Answer(200, map[string]any{"children": []any{}, "inaccessible_children": []any{}, "room": map[string]any{
				"room_id": "!far:elsewhere.test", "name": "far", "join_rule": "public", "num_joined_members": 1, "world_readable": true, "guest_can_join": false,
			}})(w, r)
		})
		var summary struct {
			Name string `json:"name"`
		}
		alice.Must("GET", "/v1/room_summary/!far:elsewhere.test?via="+string(mute.Name)+"&via="+string(honest.Name), nil, &summary)
		if summary.Name != "far" {
			t.Errorf("the room is named %q", summary.Name)
		}
	})
}

// TestSilentServersKeepNobodyOut: a user joins through a server that lets them in while the one named first is still silent.
func TestSilentServersKeepNobodyOut(t *testing.T) {
	hstest.EachWithPeer(t, func(t *testing.T, s *hstest.Server, mute *hstest.Peer) {
		alice, honest := s.Register("alice"), hstest.NewPeer(t, s)
		r := honest.Create("11", honest.User("admin"))
		pattern := "GET /_matrix/federation/v1/make_join/{room}/{user}"
		waits := silent(mute, pattern)
		honest.Handle(pattern, func(w http.ResponseWriter, r *http.Request) {
			if !waits() {
				t.Error("a server is asked only when the one before has been given up")
			}
			honest.Honest(w, r)
		})
		alice.Must("POST", "/v3/join/"+url.PathEscape(string(r.ID))+"?server_name="+url.QueryEscape(string(mute.Name))+"&server_name="+url.QueryEscape(string(honest.Name)), map[string]any{}, nil)
	})
}
