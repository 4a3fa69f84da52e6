package room_test

import (
	"context"
	"encoding/json"
	"slices"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestRedactedBeforeItCame has events of a room's past arrive after what redacts them: they are stored redacted if
// whoever redacted them may do so, and in any case they come.
func TestRedactedBeforeItCame(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		db := storetest.Open(t, address)
		one, two := pair(t, db)
		ctx := context.Background()
		bob := id.UserID("@bob:" + string(otherServer))
		roomID, err := two.Create(ctx, room.Creation{Creator: bob, Preset: "public_chat", PowerOverride: map[string]json.RawMessage{"redact": json.RawMessage("0")}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		gone := send(t, two, room.Message{Room: roomID, Sender: bob, Type: "m.room.message", Content: json.RawMessage(`{"body":"secret"}`)})
		stays := send(t, two, room.Message{Room: roomID, Sender: bob, Type: "m.room.message", Content: json.RawMessage(`{"body":"hi"}`)})
		rejoin(t, one, roomID)
		join := timeline(t, db, roomID)[0]
		deliver(t, one, two, join)
		deliver(t, two, one, send(t, two, room.Message{Room: roomID, Sender: bob, Type: event.TypeRedaction, Redacts: gone.ID}))
		// Alice may not redact what bob wrote, whatever she may later.
		none := ""
		deliver(t, two, one, send(t, two, room.Message{Room: roomID, Sender: bob, Type: event.TypePowerLevels, StateKey: &none, Content: json.RawMessage(`{"redact":50}`)}))
		refused := forge(t, one, one, roomID, event.Proto{Type: event.TypeRedaction, Sender: user("alice"), Redacts: stays.ID})
		deliver(t, two, one, refused)
		deliver(t, two, one, send(t, two, room.Message{Room: roomID, Sender: bob, Type: event.TypePowerLevels, StateKey: &none, Content: json.RawMessage(`{"redact":0}`)}))
		if seen(t, db, roomID, refused.ID) {
			t.Error("a redaction is shown that waits for its target")
		}
		for range 10 {
			if n, err := one.Backfill(ctx, roomID, 50); err != nil || n == 0 {
				break
			}
		}
		var list []*store.Event
		err = storetest.Open(t, address).View(ctx, func(tx *store.Tx) error {
			if list, err = tx.Events.ByID(gone.ID, stays.ID); err != nil {
				return err
			}
			for _, ev := range list {
				if waiting, err := tx.Relations.Awaited(ev.Room, []id.EventID{ev.ID}); err != nil || len(waiting) > 0 {
					t.Errorf("redactions still wait for %s: %v, %v", ev.ID, waiting, err)
				}
			}
			return nil
		})
		if err != nil || len(list) != 2 || slices.ContainsFunc(list, func(ev *store.Event) bool { return ev.Position >= 0 }) {
			t.Fatalf("of the past came %v, %v", list, err)
		}
		if list[0].RedactedBy == 0 || string(list[0].Content) != "{}" {
			t.Errorf("the redacted event is stored as %s", list[0].Content)
		}
		if list[1].RedactedBy != 0 || seen(t, db, roomID, refused.ID) {
			t.Error("an event was redacted by who may not")
		}
	})
}
