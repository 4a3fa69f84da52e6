package room_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestALargeRoomIsWrittenInPortions: others who write do not wait until all that describes a room is written.
func TestALargeRoomIsWrittenInPortions(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		const states, size = 100, 50_000
		one, two := pair(t, db)
		bob := id.UserID("@bob:" + string(otherServer))
		updates := func(size int) int64 {
			begin := room.Creation{Creator: bob, Preset: "public_chat"}
			for i := range states {
				content := json.RawMessage(`{"x":"` + strings.Repeat("x", size) + `"}`)
				begin.InitialState = append(begin.InitialState, room.StateEvent{Type: "x.y", StateKey: fmt.Sprint(i), Content: content})
			}
			roomID, err := two.Create(context.Background(), begin, nil)
			if err != nil {
				t.Fatal(err)
			}
			before := db.Updates()
			if err := one.Join(context.Background(), room.Change{Room: roomID, Sender: user("alice"), Target: user("alice"), Via: []id.ServerName{otherServer}}); err != nil {
				t.Fatal(err)
			}
			return db.Updates() - before
		}
		updates(1) // after which the types and keys of the state are known
		small, large := updates(1), updates(size)
		if want := small + states*size>>20; large < want {
			t.Errorf("a room of %d bytes was written in %d updates, one of little in %d", states*size, large, small)
		}
	})
}
