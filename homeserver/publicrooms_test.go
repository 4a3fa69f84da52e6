package homeserver_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/store"
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
		err := s.Store.View(t.Context(), func(tx *store.Tx) error {
			for offset := 0; offset < rooms; {
				page, total, err := tx.Rooms.Published(offset, 100, 5000, func(*store.Summary) bool { return true })
				if err != nil || total != rooms || len(page) == 0 || len(page) > 3 {
					t.Fatalf("a page has %d rooms of %d: %v", len(page), total, err)
				}
				offset += len(page)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
