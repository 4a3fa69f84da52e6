package room_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestDroppedEndsAreSpokenFor: so many forks of one old event that the oldest ends are dropped, a ban of ours among them. What
// they said stays, also once others have named all that are left.
func TestDroppedEndsAreSpokenFor(t *testing.T) {
	defer room.LimitFurther(60)()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		for _, v := range []id.RoomVersion{"2", "10", "12"} {
			f := fork(t, one, two, v)
			old, self := f.last(), "@bob:two.test"
			var forks []*event.Event
			for i := range 200 {
				forks = append(forks, f.forge(old, event.Proto{Type: event.TypeMember, StateKey: &self, Sender: "@bob:two.test", Content: json.RawMessage(fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, i))}))
			}
			f.deliver(forks[:50]...)
			f.set(event.TypeMember, "@mallory:two.test", `{"membership":"ban"}`)
			banned := func(when string) {
				t.Helper()
				if m, _, err := f.us.MembershipOf(context.Background(), f.room, "@mallory:two.test"); err != nil || m != "ban" {
					t.Fatalf("version %s, %s: mallory's membership is %q, %v", v, when, m, err)
				}
			}
			f.deliver(forks[50:]...)
			banned("with all forks")
			for some := range slices.Chunk(forks, 10) {
				f.us = again(one)
				var prev []id.EventID
				for _, ev := range some {
					prev = append(prev, ev.ID)
				}
				f.deliver(f.forge(prev[0], event.Proto{Type: "m.room.message", Sender: "@bob:two.test", Content: json.RawMessage(`{}`), PrevEvents: prev}))
			}
			banned("with all named by others")
			for i := range 5 {
				f.say(fmt.Sprint(i))
			}
			banned("with all tied together")
			f.view(func(tx *store.Tx, r *store.Room) error {
				left, err := tx.Rooms.Ends(r.NID)
				if head, _ := tx.Rooms.Head(r.NID); len(left)+len(head.Extremities) != 1 {
					t.Errorf("version %s: %d and %d ends are left", v, len(head.Extremities), len(left))
				}
				return err
			})
		}
	})
}
