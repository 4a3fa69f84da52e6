package timeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

// TestStateComesInPieces: a room's state is handed on a few events at a time, and while somebody takes them slowly, no
// reader of the database waits with them. Answers that are held as a whole have a bound.
func TestStateComesInPieces(t *testing.T) {
	each(t, func(w *world) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		roomID := w.create("shared")
		long := strings.Repeat("x", 60_000)
		const n = 320 // 19 MB
		var last room.Message
		for i := range n {
			key := strings.Repeat("k", i/250+1) + string(rune('a'+i%250))
			last = room.Message{Room: roomID, Sender: user("alice"), Type: "test.large", StateKey: &key, Content: content(map[string]any{"x": long})}
			w.send(last)
		}
		all, largest := 0, 0
		count := func(list []json.RawMessage) error {
			size := 0
			for _, raw := range list {
				size += len(raw)
			}
			all, largest = all+len(list), max(largest, size)
			return nil
		}
		w.must(w.State(ctx, roomID, reader("alice"), count))
		if all < n || largest > 4<<20 {
			t := w.T
			t.Errorf("%d events, up to %d bytes at a time", all, largest)
		}
		if _, err := w.Snapshot(ctx, roomID, reader("alice"), 1); !errors.Is(err, timeline.ErrTooLarge) {
			w.Errorf("a snapshot of 19 MB: %v", err)
		}
		stop := make(chan struct{})
		var slow, begun sync.WaitGroup
		for range 30 {
			begun.Add(1)
			slow.Go(func() {
				first := true
				err := w.State(ctx, roomID, reader("alice"), func([]json.RawMessage) error {
					if first {
						first = false
						begun.Done()
					}
					<-stop
					return nil
				})
				if err != nil {
					w.Error(err)
				}
			})
		}
		begun.Wait()
		w.must(w.Store.View(ctx, func(*store.Tx) error { return nil }))
		close(stop)
		slow.Wait()
	})
}
