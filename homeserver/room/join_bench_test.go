package room_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// BenchmarkJoinThere joins rooms of another server, without a network between them: what checking and storing their state takes.
func BenchmarkJoinThere(b *testing.B) {
	for _, members := range []int{1000, 4000} {
		b.Run(fmt.Sprint(members), func(b *testing.B) {
			first, two := pair(b, storetest.Open(b, filepath.Join(b.TempDir(), "two.db")))
			roomID := crowd(b, two, members)
			for i := range b.N {
				b.StopTimer()
				one := engine(b, storetest.Open(b, filepath.Join(b.TempDir(), fmt.Sprint(i, ".db"))))
				one.Key, one.Remote = first.Key, first.Remote
				b.StartTimer()
				rejoin(b, one, roomID)
			}
		})
	}
}

// crowd makes a room that many users of a server are in.
func crowd(b *testing.B, e *room.Engine, members int) id.RoomID {
	b.Helper()
	roomID, err := e.Create(context.Background(), room.Creation{Creator: id.UserID("@bob:" + string(e.Server)), Preset: "public_chat"}, nil)
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	names := make(chan id.UserID)
	for range 32 {
		wg.Go(func() {
			for u := range names {
				if err := e.Join(context.Background(), room.Change{Room: roomID, Sender: u, Target: u}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for n := range members {
		names <- id.UserID(fmt.Sprintf("@member-%d:%s", n, e.Server))
	}
	close(names)
	wg.Wait()
	return roomID
}
