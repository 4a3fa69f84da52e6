package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestEndsArePurgedInSteps: of a room whose purge has begun nobody reads them any longer, and they go like all the rest.
func TestEndsArePurgedInSteps(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		update := func(fn func(tx *store.Tx) error) {
			t.Helper()
			if err := db.Update(context.Background(), fn); err != nil {
				t.Fatal(err)
			}
		}
		version, _ := event.VersionOf("12")
		const nid, now = store.RoomNID(77), 1_000_000
		update(func(tx *store.Tx) error {
			if err := tx.Rooms.Insert(&store.Room{NID: nid, ID: "!ends:one.test", Version: version}, store.Head{}); err != nil {
				return err
			}
			var ends []store.Extremity
			for i := range 25 {
				ends = append(ends, store.Extremity{NID: store.EventNID(i + 1), ID: "$x"})
			}
			if err := tx.Rooms.AddEnds(nid, ends); err != nil {
				return err
			}
			if err := tx.Rooms.Unwanted(nid); err != nil {
				return err
			}
			return tx.Rooms.MarkUnwanted(nid, time.UnixMilli(now))
		})
		ends := func(want int) {
			t.Helper()
			update(func(tx *store.Tx) error {
				list, err := tx.Rooms.Ends(nid)
				if len(list) != want {
					t.Errorf("there are %d ends, want %d", len(list), want)
				}
				return err
			})
		}
		ends(25)
		update(func(tx *store.Tx) error {
			begun, err := tx.Rooms.BeginPurge(nid, time.UnixMilli(now))
			if !begun {
				t.Error("the purge has not begun")
			}
			return err
		})
		ends(0)
		steps := 0
		for more := true; more; steps++ {
			update(func(tx *store.Tx) (err error) {
				more, err = tx.Rooms.PurgeSome(nid, 10)
				return err
			})
		}
		if steps != 4 {
			t.Errorf("there were %d steps", steps)
		}
	})
}
