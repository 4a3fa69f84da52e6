package room_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestWalksAreBounded: what is looked at for another server has a bound in events and in bytes.
func TestWalksAreBounded(t *testing.T) {
	const size, count = 10_000, 30
	text := json.RawMessage(`{"body":"` + strings.Repeat("x", size) + `"}`)
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		e := engine(t, db)
		roomID := create(t, e, room.Creation{Preset: "public_chat"})
		var last *store.Event
		for range count {
			last = send(t, e, room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.message", Content: text})
		}
		for _, c := range []struct {
			name                string
			events, size, least int
			most                int
		}{
			{"all", 1000, 1 << 20, count, 1000},
			{"events", 10, 1 << 20, 10, 10},
			{"bytes", 1000, 5*size + 1, 5, 6},
		} {
			err := db.View(context.Background(), func(tx *store.Tx) error {
				r, err := tx.Rooms.ByID(roomID)
				if err != nil {
					return err
				}
				found, looked, err := room.Walk(tx, r, []id.EventID{last.ID}, c.events, c.size)
				if looked < c.least || looked > c.most || len(found) != looked {
					t.Errorf("%s: %d events were looked at and %d found, want %d to %d", c.name, looked, len(found), c.least, c.most)
				}
				if len(found) > 0 && string(found[0].JSON) != string(last.JSON) {
					t.Errorf("%s: the newest is %s", c.name, found[0].JSON)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}
