package timeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

// Results, what stands around them and states are bounded in bytes, not only in number; pages lead to all results.
func TestSearchIsBoundedInBytes(t *testing.T) {
	each(t, func(w *world) {
		const messages = 50
		roomID := w.create("shared")
		for range messages {
			w.say(roomID, "alice", "needle "+strings.Repeat("x", 50_000))
		}
		most := 1000
		q := timeline.Search{
			Term: "needle", Recent: true, IncludeState: true, Filter: &filter.RoomEvents{Events: filter.Events{Limit: &most}},
			Context: &timeline.SearchContext{Before: 1000, After: 1000, Profiles: true},
		}
		seen, pages := map[string]bool{}, 0
		for ; pages == 0 || q.From != ""; pages++ {
			found, err := w.Search(context.Background(), reader("alice"), q)
			w.must(err)
			if found.Count != messages {
				w.Fatalf("%d are found", found.Count)
			}
			raw, err := json.Marshal(found)
			w.must(err)
			if len(raw) > 6<<20 {
				w.Errorf("page %d has %d bytes", pages, len(raw))
			}
			around := 0
			for _, r := range found.Results {
				seen[string(w.parse(r.Event).ID)] = true
				around += len(r.Context.Before) + len(r.Context.After)
			}
			if around == 0 || len(found.State[roomID]) == 0 {
				w.Errorf("page %d: %d events are around the results, %d are state", pages, around, len(found.State[roomID]))
			}
			q.From = found.Next
		}
		if len(seen) != messages || pages < 3 {
			w.Errorf("%d pages show %d messages", pages, len(seen))
		}
	})
}

// A search looks at so many bytes, and ends when nobody waits for it.
func TestSearchLooksAtBoundedBytes(t *testing.T) {
	each(t, func(w *world) {
		roomID := w.create("shared")
		for range 40 {
			w.say(roomID, "alice", "needle "+strings.Repeat("x", 5000))
		}
		for size, want := range map[int]int{1 << 20: 40, 52_000: 10, 1: 1} {
			n, err := timeline.CountWithin(w.Service, context.Background(), reader("alice"), "needle", size)
			if w.must(err); n < want-1 || n > want+1 {
				w.Errorf("in %d bytes %d are found, want %d", size, n, want)
			}
		}
		for range 20 {
			w.say(w.create("shared"), "alice", "pin "+strings.Repeat("x", 50_000))
		}
		// What one room reads beyond its share is missing to the others.
		for size, want := range map[int]int{2 << 20: 20, 200_000: 5} {
			n, err := timeline.CountWithin(w.Service, context.Background(), reader("alice"), "pin", size)
			if w.must(err); n > want || n < want/2 {
				w.Errorf("in %d bytes of many rooms %d are found, want %d", size, n, want)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := w.Search(ctx, reader("alice"), timeline.Search{Term: "needle", Filter: &filter.RoomEvents{}}); !errors.Is(err, context.Canceled) {
			w.Errorf("a search that nobody waits for: %v", err)
		}
	})
}

// Pages of relations and threads are bounded in bytes as well, and lead to all of them.
func TestRelationsAndThreadsAreBoundedInBytes(t *testing.T) {
	each(t, func(w *world) {
		const n = 60
		ctx, roomID := context.Background(), w.create("shared")
		large := strings.Repeat("x", 50_000)
		root := w.say(roomID, "alice", "root")
		for range n {
			thread := w.say(roomID, "alice", large)
			w.send(room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.message", Content: content(map[string]any{
				"body": large, "m.relates_to": map[string]any{"rel_type": "m.reference", "event_id": root},
			})})
			w.send(room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.message", Content: content(map[string]any{
				"body": "short", "m.relates_to": map[string]any{"rel_type": "m.thread", "event_id": thread},
			})})
		}
		for what, ask := range map[string]func(from string) (*timeline.Related, error){
			"relations": func(from string) (*timeline.Related, error) {
				return w.Relations(ctx, roomID, reader("alice"), timeline.Relations{Parent: root, RelType: "m.reference", From: from, Limit: 1000})
			},
			"threads": func(from string) (*timeline.Related, error) {
				return w.Threads(ctx, roomID, reader("alice"), timeline.ThreadQuery{From: from, Limit: 1000})
			},
		} {
			seen, pages := map[string]bool{}, 0
			for from := ""; pages == 0 || from != ""; pages++ {
				page, err := ask(from)
				w.must(err)
				if len(page.Chunk)*len(large) > 4<<20 {
					w.Errorf("%s: %d events on a page", what, len(page.Chunk))
				}
				for _, raw := range page.Chunk {
					seen[string(w.parse(raw).ID)] = true
				}
				from = page.Next
			}
			if len(seen) != n || pages < 2 {
				w.Errorf("%s: %d pages show %d events", what, pages, len(seen))
			}
		}
	})
}

// TestBundlesAreBoundedInBytes: what is bundled with a page of small events is no larger than some megabytes, and edits come
// before threads.
func TestBundlesAreBoundedInBytes(t *testing.T) {
	each(t, func(w *world) {
		const n = 120
		ctx, roomID, large := context.Background(), w.create("shared"), strings.Repeat("x", 50_000)
		var small []id.EventID
		for range n {
			small = append(small, w.say(roomID, "alice", "short"))
		}
		for _, event := range small {
			w.send(room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.message", Content: content(map[string]any{
				"msgtype": "m.text", "body": "", "m.new_content": map[string]any{"msgtype": "m.text", "body": large},
				"m.relates_to": map[string]any{"rel_type": "m.replace", "event_id": event},
			})})
			w.send(room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.message", Content: content(map[string]any{
				"msgtype": "m.text", "body": large, "m.relates_to": map[string]any{"rel_type": "m.thread", "event_id": event},
			})})
		}
		page, err := w.Messages(ctx, roomID, reader("alice"), timeline.Page{Limit: n})
		w.must(err)
		size, edits, threads := 0, 0, 0
		for _, raw := range page.Chunk {
			size += len(raw)
			edits += strings.Count(string(raw), `"m.replace":`)
			threads += strings.Count(string(raw), `"latest_event":`)
		}
		if size > 6<<20 || edits < 80 || threads > 0 {
			t.Errorf("a page of %d events has %d bytes, with %d edits and %d threads", len(page.Chunk), size, edits, threads)
		}
	})
}

// TestReferencesAreBoundedInBytes: to tell which events refer to those of an answer, no more than some megabytes are read.
func TestReferencesAreBoundedInBytes(t *testing.T) {
	each(t, func(w *world) {
		const n = 200
		ctx, roomID, large := context.Background(), w.create("shared"), strings.Repeat("x", 50_000)
		refer := func(to id.EventID, body string) {
			w.send(room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.message", Content: content(map[string]any{
				"body": body, "m.relates_to": map[string]any{"rel_type": "m.reference", "event_id": to},
			})})
		}
		first, second := w.say(roomID, "alice", "first"), w.say(roomID, "alice", "second")
		for range n {
			refer(first, "short")
		}
		raw, err := w.Event(ctx, roomID, reader("alice"), first)
		w.must(err)
		w.equal("small references", fmt.Sprint(strings.Count(string(raw), `{"event_id":`)), fmt.Sprint(n))
		for range n {
			refer(second, large)
		}
		check := func(what, text string, small int) {
			w.Helper()
			if large := (strings.Count(text, `{"event_id":`) - small) * len(large); large < 3<<20 || large > 8<<20 {
				w.Errorf("%s: references of %d bytes have been read", what, large)
			}
		}
		raw, err = w.Event(ctx, roomID, reader("alice"), second)
		w.must(err)
		check("an event", string(raw), 0)
		page, err := w.Messages(ctx, roomID, reader("alice"), timeline.Page{Limit: 20})
		w.must(err)
		text := ""
		for _, raw := range page.Chunk {
			text += string(raw)
		}
		check("a page", text, n)
	})
}
