package timeline_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

const (
	// told is how many bytes are told with each small event.
	told = 50_000
	// fits is how many bytes a page may have: the last event may be small, but much is told with it.
	fits = 1<<20 + 3*told
)

func bytesOf(lists ...[]json.RawMessage) (n int) {
	for _, list := range lists {
		for _, raw := range list {
			n += len(raw)
		}
	}
	return n
}

// TestPagesHaveRoomForWhatIsTold: what redacted an event, what it replaced and who sent it take their room on a page, which
// ends earlier and leads on to all events.
func TestPagesHaveRoomForWhatIsTold(t *testing.T) {
	const n = 60
	small := map[string]any{"body": "small", "url": "mxc://one.test/small"}
	large := map[string]any{"reason": strings.Repeat("x", told)}
	yes := true
	for name, c := range map[string]struct {
		fill func(w *world, roomID id.RoomID)
		lazy bool
	}{
		"redactions": {fill: func(w *world, roomID id.RoomID) {
			for range n {
				w.redact(roomID, w.setState(roomID, "alice", "test.small", small), large)
			}
		}},
		"replaced state": {fill: func(w *world, roomID id.RoomID) {
			for range n {
				w.setState(roomID, "alice", "test.small", large)
				w.setState(roomID, "alice", "test.small", small)
			}
		}},
		"senders": {lazy: true, fill: func(w *world, roomID id.RoomID) {
			for i := range n {
				who := fmt.Sprint("user", i)
				w.must(w.rooms.SetMembership(context.Background(), room.Change{
					Room: roomID, Sender: user(who), Target: user(who), Membership: "join", Reason: strings.Repeat("x", told),
				}))
				w.send(room.Message{Room: roomID, Sender: user(who), Type: "test.small", Content: content(small)})
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(w *world) {
				roomID := w.create("shared")
				c.fill(w, roomID)
				f := &filter.RoomEvents{Events: filter.Events{Types: []string{"test.small"}}, LazyLoadMembers: c.lazy}
				if name == "replaced state" {
					f.ContainsURL = &yes
				}
				for _, backwards := range []bool{true, false} {
					w.readAll(roomID, n, f, backwards)
				}
			})
		})
	}
}

// readAll reads pages of a room to its end, where there are so many events.
func (w *world) readAll(roomID id.RoomID, n int, f *filter.RoomEvents, backwards bool) {
	w.Helper()
	ctx := context.Background()
	seen, pages, from := map[id.EventID]bool{}, 0, ""
	var middle id.EventID
	for ; pages == 0 || from != ""; pages++ {
		page, err := w.Messages(ctx, roomID, reader("alice"), timeline.Page{From: from, Backwards: backwards, Limit: 1000, Filter: f})
		w.must(err)
		if size := bytesOf(page.Chunk, page.State); size > fits {
			w.Errorf("page %d has %d bytes", pages, size)
		}
		for _, raw := range page.Chunk {
			middle = w.parse(raw).ID
			seen[middle] = true
		}
		if from = page.End; len(page.Chunk) == 0 {
			break
		}
	}
	if len(seen) != n || pages < 3 || pages > 6 {
		w.Errorf("%d pages show %d events of %d", pages, len(seen), n)
	}
	around, err := w.Context(ctx, roomID, reader("alice"), middle, 1000, f)
	w.must(err)
	if size := bytesOf(around.Before, around.After); size > 2*fits {
		w.Errorf("around an event are %d bytes", size)
	}
}

func (w *world) redact(roomID id.RoomID, ev id.EventID, with map[string]any) {
	w.Helper()
	_, err := w.rooms.Redact(context.Background(), roomID, user("alice"), ev, content(with), nil)
	w.must(err)
}

// TestThreadsHaveRoomForRedactions: the redactions of their first events count as well.
func TestThreadsHaveRoomForRedactions(t *testing.T) {
	each(t, func(w *world) {
		const n = 60
		roomID := w.create("shared")
		for range n {
			root := w.say(roomID, "alice", "small")
			w.relate(roomID, "alice", "m.thread", root)
			w.redact(roomID, root, map[string]any{"reason": strings.Repeat("x", told)})
		}
		seen, pages, from := 0, 0, ""
		for ; pages == 0 || from != ""; pages++ {
			page, err := w.Threads(context.Background(), roomID, reader("alice"), timeline.ThreadQuery{From: from, Limit: 1000})
			w.must(err)
			if size := bytesOf(page.Chunk); size > fits+n*1000 {
				w.Errorf("page %d has %d bytes", pages, size)
			}
			seen, from = seen+len(page.Chunk), page.Next
		}
		if seen != n || pages < 3 {
			w.Errorf("%d pages show %d threads of %d", pages, seen, n)
		}
	})
}
