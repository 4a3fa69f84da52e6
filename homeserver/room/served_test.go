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

// TestWhatAServerSees: of each stretch of history without a change of state it is found out once, whether a server sees it, and
// each of its members is read once.
func TestWhatAServerSees(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		const members, messages = 20, 30
		one, two := pair(t, db)
		roomID := create(t, one, room.Creation{Preset: "public_chat", InitialState: []room.StateEvent{
			{Type: event.TypeHistoryVisibility, Content: json.RawMessage(`{"history_visibility":"joined"}`)},
		}})
		say := func() {
			for range messages {
				send(t, one, room.Message{Room: roomID, Sender: user("alice"), Type: "m.room.message"})
			}
		}
		tell := func() {
			theirs := timeline(t, two.Store, roomID)
			deliver(t, two, one, theirs[len(theirs)-1])
		}
		enter := func(name string) {
			bob := id.UserID("@" + name + ":" + string(otherServer))
			if err := two.Join(context.Background(), room.Change{Room: roomID, Sender: bob, Target: bob, Via: []id.ServerName{server}}); err != nil {
				t.Fatal(err)
			}
			tell()
		}
		enter("early")
		if err := two.Leave(context.Background(), room.Change{Room: roomID, Sender: id.UserID("@early:" + string(otherServer))}); err != nil {
			t.Fatal(err)
		}
		tell()
		say() // which nobody there sees
		for i := range members {
			enter(fmt.Sprint("bob", i))
		}
		say() // which all see
		events := timeline(t, db, roomID)
		events = events[slices.IndexFunc(events, func(ev *store.Event) bool { return ev.Sender.Server() == otherServer }):]
		err := db.View(context.Background(), func(tx *store.Tx) error {
			r, err := tx.Rooms.ByID(roomID)
			if err != nil {
				return err
			}
			seen, looks, read, err := room.Sees(tx, r, otherServer, events)
			if want := 1 + members + messages; seen != want { // with the coming of the first one
				t.Errorf("%d of %d events are seen, want %d", seen, len(events), want)
			}
			if looks > 10*members || read > 2*members {
				t.Errorf("%d memberships were looked up and %d read for %d members", looks, read, members)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
