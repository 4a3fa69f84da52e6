package room_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// TestRelationsStandWhereTheirEventsDo relates to an event in a room's past and at its end, by what is redacted before it
// comes and after, and by redactions that are shown only once their target comes: at any time what relates to the event
// is what is shown of the room, in the same places.
func TestRelationsStandWhereTheirEventsDo(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		ctx, bob := context.Background(), id.UserID("@bob:"+string(otherServer))
		roomID, err := two.Create(ctx, room.Creation{Creator: bob, Preset: "public_chat"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		root := send(t, two, room.Message{Room: roomID, Sender: bob, Type: "m.room.message", Content: json.RawMessage(`{"body":"root"}`)})
		relates := json.RawMessage(fmt.Sprintf(`{"body":"x","m.relates_to":{"rel_type":"m.thread","event_id":"%s"}}`, root.ID))
		answer := func(e *room.Engine, by id.UserID) *store.Event {
			return send(t, e, room.Message{Room: roomID, Sender: by, Type: "m.room.message", Content: relates})
		}
		redact := func(target *store.Event) *store.Event {
			return send(t, two, room.Message{Room: roomID, Sender: bob, Type: event.TypeRedaction, Redacts: target.ID, Content: relates})
		}
		check := func(when string, atLeast int) {
			t.Helper()
			var shown, related []string
			var last stream.Position
			err := db.View(ctx, func(tx *store.Tx) error {
				r, err := tx.Rooms.ByID(roomID)
				if err != nil {
					return err
				}
				events, err := tx.Events.Range(r.NID, math.MinInt64, math.MaxInt64, math.MaxInt32, false)
				for _, ev := range events {
					if containsRelation(ev) {
						shown = append(shown, fmt.Sprint(ev.NID, " ", ev.Position))
					}
				}
				if err != nil {
					return err
				}
				list, err := tx.Relations.Children(r.NID, root.ID, "m.thread", "", math.MinInt64, math.MaxInt64, math.MaxInt32, false)
				for _, c := range list {
					related = append(related, fmt.Sprint(c.Event, " ", c.Position))
					last = c.Position
				}
				if err != nil {
					return err
				}
				groups, err := tx.Relations.Groups(r.NID, []id.EventID{root.ID})
				if want := (store.RelationGroup{Parent: root.ID, RelType: "m.thread", Count: int64(len(list)), Last: last}); len(groups) != 1 || groups[0] != want {
					t.Errorf("%s: summed up it is %v, not %v", when, groups, want)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(shown, related) || len(shown) < atLeast {
				t.Errorf("%s: the events shown are %v, what relates is %v", when, shown, related)
			}
		}
		old, gone := answer(two, bob), answer(two, bob)
		rejoin(t, one, roomID)
		deliver(t, one, two, timeline(t, db, roomID)[0])
		waits := redact(gone)
		deliver(t, two, one, waits)
		if seen(t, db, roomID, waits.ID) {
			t.Error("a redaction is shown that waits for its target")
		}
		mine := answer(one, user("alice"))
		deliver(t, one, two, mine)
		theirs := answer(two, bob)
		deliver(t, two, one, theirs)
		check("before the past came", 2)
		for range 10 {
			if n, err := one.Backfill(ctx, roomID, 50); err != nil || n == 0 {
				break
			}
		}
		if !seen(t, db, roomID, old.ID) || !seen(t, db, roomID, waits.ID) {
			t.Error("the past, or the redaction that waited for it, has not come")
		}
		check("with the past", 4)
		deliver(t, two, one, redact(theirs))
		deliver(t, two, one, redact(old))
		check("after more redactions", 4)
	})
}

// containsRelation says whether an event relates to another one.
func containsRelation(ev *store.Event) bool {
	var content struct {
		RelatesTo json.RawMessage `json:"m.relates_to"`
	}
	return json.Unmarshal(ev.Content, &content) == nil && content.RelatesTo != nil
}
