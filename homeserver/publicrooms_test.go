package homeserver_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// TestPublicRoomSearch: both databases find a text in whatever case, and pages hold only what was asked for, all of it.
func TestPublicRoomSearch(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		for _, name := range []string{"ÜBERRAUM 1", "another", "überraum 2", "Überraum 3"} {
			alice.CreateRoom(map[string]any{"visibility": "public", "name": name})
		}
		alice.CreateRoom(map[string]any{"visibility": "public", "name": "Überspace", "creation_content": map[string]any{"type": "m.space"}})
		type page struct {
			Chunk []struct{ Name string }
			Next  string `json:"next_batch"`
			Total int    `json:"total_room_count_estimate"`
		}
		search := func(filter map[string]any, sizes ...int) {
			t.Helper()
			total, since := 0, ""
			for _, n := range sizes {
				total += n
			}
			for i, size := range sizes {
				var p page
				alice.Must("POST", "/v3/publicRooms", map[string]any{"limit": 2, "since": since, "filter": filter}, &p)
				if len(p.Chunk) != size || p.Total != total || (p.Next == "") != (i == len(sizes)-1) {
					t.Errorf("%v, page %d: %+v", filter, i, p)
				}
				since = p.Next
			}
		}
		search(map[string]any{"generic_search_term": "überraum"}, 2, 1)
		search(map[string]any{"generic_search_term": "ÜBER", "room_types": []any{nil}}, 2, 1)
		search(map[string]any{"room_types": []any{"m.space"}}, 1)
		search(map[string]any{"generic_search_term": "100%"}, 0)
		search(nil, 2, 2, 1)
		var last page
		alice.Must("GET", "/v3/publicRooms?limit=9&since="+base64.RawURLEncoding.EncodeToString([]byte("p.0.0.5")), nil, &last) // behind the end
		if len(last.Chunk) != 0 || last.Next != "" {
			t.Errorf("behind the end: %+v", last)
		}
	})
}

// TestLargePublicRooms: lists show the beginning of large topics, and a page is bounded in bytes.
func TestLargePublicRooms(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		const rooms = 10
		for range rooms {
			alice.CreateRoom(map[string]any{"visibility": "public", "topic": strings.Repeat("ü", 15_000)})
		}
		var p struct{ Chunk []struct{ Topic string } }
		alice.Must("GET", "/v3/publicRooms?limit=100", nil, &p)
		if len(p.Chunk) != rooms {
			t.Fatalf("a page has %d rooms", len(p.Chunk))
		}
		for _, r := range p.Chunk {
			if n := len(r.Topic); n > 2048 || n < 2000 || strings.Trim(r.Topic, "ü") != "" {
				t.Errorf("%d bytes of a topic are shown", n)
			}
		}
	})
}

// publish makes rooms that stand in the list, of which each has more members than the next.
func publish(t *testing.T, s *hstest.Server, count int, topic string) {
	t.Helper()
	version, _ := event.VersionOf(event.DefaultVersion)
	err := s.Store.Update(t.Context(), func(tx *store.Tx) error {
		for i := range count {
			nid := store.RoomNID(1<<30 + i)
			r := &store.Room{NID: nid, ID: id.RoomID(fmt.Sprintf("!listed%d:%s", i, s.Name)), Version: version}
			summary := store.Summary{Name: fmt.Sprintf("listed %05d", i), Topic: topic, JoinRule: "public", JoinedMembers: int64(2 * (count - i))}
			member := store.Membership{Room: nid, User: id.UserID("@alice:" + string(s.Name)), Membership: "join", Position: stream.Position(i)}
			err := errors.Join(tx.Rooms.Insert(r, store.Head{}), tx.Rooms.SetSummary(nid, summary), tx.Rooms.SetPublished(nid, true), tx.Memberships.Set(member, "", true))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// list is a page of the public room list.
type list struct {
	Chunk []struct{ Name string }
	Next  string `json:"next_batch"`
	Prev  string `json:"prev_batch"`
	Total int    `json:"total_room_count_estimate"`
}

// TestPublicRoomPages goes through the list and back: all rooms are seen, each once, while others are published.
func TestPublicRoomPages(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		const count, limit = 250, 60
		alice := s.Register("alice")
		publish(t, s, count, "")
		walk := func(since string, next func(list) string) (names []string, last list) {
			for {
				last = list{} // what is left out is not there
				alice.Must("GET", fmt.Sprintf("/v3/publicRooms?limit=%d&since=%s", limit, since), nil, &last)
				if last.Total < count {
					t.Fatalf("a page tells of %d rooms", last.Total)
				}
				for _, r := range last.Chunk {
					names = append(names, r.Name)
				}
				if since = next(last); since == "" {
					return names, last
				}
			}
		}
		forth, end := walk("", func(l list) string { return l.Next })
		if len(forth) != count || !slices.IsSorted(forth) {
			t.Fatalf("%d rooms are seen: %v", len(forth), forth)
		}
		alice.CreateRoom(map[string]any{"visibility": "public", "name": "listed after all"})
		back, begin := walk(end.Prev, func(l list) string { return l.Prev })
		slices.Sort(back)
		if before := count - len(end.Chunk); !slices.Equal(back, forth[:before]) {
			t.Errorf("%d rooms are seen going back, not %d: %v", len(back), before, back)
		}
		rest, _ := walk(begin.Next, func(l list) string { return l.Next })
		if want := append(slices.Clone(forth[len(begin.Chunk):]), "listed after all"); !slices.Equal(rest, want) {
			t.Errorf("%d rooms are seen from the first page on, not %d", len(rest), len(want))
		}
	})
}

// TestPublicRoomsAreBounded: one search looks at so many rooms and goes on where it ended, and a page has so many bytes.
func TestPublicRoomsAreBounded(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		const count = 2500
		alice := s.Register("alice")
		publish(t, s, count, strings.Repeat("x", 2000))
		pages, since := 0, ""
		for ; ; pages++ {
			var p list
			alice.Must("POST", "/v3/publicRooms", map[string]any{"since": since, "filter": map[string]any{"generic_search_term": fmt.Sprintf("LISTED %05d", count-1)}}, &p)
			if len(p.Chunk) == 1 || p.Next == "" {
				if len(p.Chunk) != 1 || p.Next != "" || p.Total != 1 {
					t.Errorf("the last page is %+v", p)
				}
				break
			}
			since = p.Next
		}
		if pages != 1 {
			t.Errorf("the room that is behind %d others is found behind %d pages", count-1, pages)
		}
		var p list
		alice.Must("GET", "/v3/publicRooms?limit=500", nil, &p)
		if len(p.Chunk) == 500 || len(p.Chunk) < 400 || p.Total != count {
			t.Errorf("%d rooms of 2 KB each are on a page, of %d", len(p.Chunk), p.Total)
		}
		types := make([]string, 51)
		alice.Refused("POST", "/v3/publicRooms", map[string]any{"filter": map[string]any{"room_types": types}}, 400, "M_INVALID_PARAM")
	})
}
