package timeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/filter"
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
			n, err := timeline.CountWithin(w.Service, context.Background(), reader("alice"), roomID, "needle", size)
			if w.must(err); n < want-1 || n > want+1 {
				w.Errorf("in %d bytes %d are found, want %d", size, n, want)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := w.Search(ctx, reader("alice"), timeline.Search{Term: "needle", Filter: &filter.RoomEvents{}}); !errors.Is(err, context.Canceled) {
			w.Errorf("a search that nobody waits for: %v", err)
		}
	})
}
