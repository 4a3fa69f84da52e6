package homeserver_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
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
		alice.Must("GET", "/v3/publicRooms?limit=9&since="+url.QueryEscape("cDk"), nil, &last) // "p9": behind the end
		if len(last.Chunk) != 0 || last.Next != "" {
			t.Errorf("behind the end: %+v", last)
		}
	})
}

// TestLargePublicRooms: a page of rooms with large topics is bounded in bytes, and the next one goes on.
func TestLargePublicRooms(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Server) {
		alice := s.Register("alice")
		const rooms = 40
		for range rooms {
			alice.CreateRoom(map[string]any{"visibility": "public", "topic": strings.Repeat("x", 30_000)})
		}
		seen := 0
		for since, pages := "", 0; pages == 0 || since != ""; pages++ {
			var p struct {
				Chunk []struct{ Topic string }
				Next  string `json:"next_batch"`
			}
			alice.Must("GET", "/v3/publicRooms?limit=100&since="+since, nil, &p)
			if len(p.Chunk) >= rooms || len(p.Chunk) == 0 {
				t.Fatalf("a page has %d rooms", len(p.Chunk))
			}
			seen += len(p.Chunk)
			since = p.Next
		}
		if seen != rooms {
			t.Errorf("%d of %d rooms", seen, rooms)
		}
	})
}
