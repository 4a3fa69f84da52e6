package room_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// asked counts what a server is asked for, and may have it know no states.
type asked struct {
	*link
	states, others int
	ignorant       bool
	extra          []json.RawMessage // handed out with the past, unasked for
}

func (a *asked) StateIDs(ctx context.Context, server id.ServerName, roomID id.RoomID, at id.EventID) (state, auth []id.EventID, err error) {
	if a.states++; a.ignorant {
		return nil, nil, errors.New("no such event here")
	}
	return a.link.StateIDs(ctx, server, roomID, at)
}

func (a *asked) Event(ctx context.Context, server id.ServerName, at id.EventID) (json.RawMessage, error) {
	a.others++
	return a.link.Event(ctx, server, at)
}

func (a *asked) EventAuth(context.Context, id.ServerName, id.RoomID, id.EventID) ([]json.RawMessage, error) {
	a.others++
	return nil, errors.New("no such event here")
}

func (a *asked) Backfill(ctx context.Context, server id.ServerName, roomID id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error) {
	out, err := a.link.Backfill(ctx, server, roomID, from, limit)
	return append(out, a.extra...), err
}

// stateNames are the events of the state before an event.
func stateNames(t *testing.T, db *store.DB, ev *store.Event) []string {
	t.Helper()
	var out []string
	err := db.View(context.Background(), func(tx *store.Tx) error {
		m, err := tx.States.Map(ev.StateBefore)
		if err != nil {
			return err
		}
		events, err := tx.States.Events(m)
		for _, s := range events {
			out = append(out, string(s.ID))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// longRoom is a room of the other server with a long past, in which now and then the topic, a name and the history visibility
// change, that alice comes to see at its end.
func longRoom(t *testing.T, one, two *room.Engine, changeVisibility bool) (id.RoomID, []*store.Event) {
	t.Helper()
	bob := id.UserID("@bob:" + string(otherServer))
	roomID, err := two.Create(context.Background(), room.Creation{Creator: bob, Preset: "public_chat"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 150 {
		send(t, two, room.Message{Room: roomID, Sender: bob, Type: "m.room.message"})
		key, content := "", json.RawMessage(fmt.Sprintf(`{"topic":"%d"}`, i))
		if i%20 == 10 {
			send(t, two, room.Message{Room: roomID, Sender: bob, Type: "m.room.topic", StateKey: &key, Content: content})
		}
		if i%60 == 30 {
			name := string(bob)
			send(t, two, room.Message{Room: roomID, Sender: bob, Type: event.TypeMember, StateKey: &name, Content: json.RawMessage(fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, i))})
		}
		if changeVisibility && i == 50 || i == 100 {
			to := map[int]string{50: "joined", 100: "shared"}[i]
			send(t, two, room.Message{Room: roomID, Sender: bob, Type: event.TypeHistoryVisibility, StateKey: &key, Content: json.RawMessage(`{"history_visibility":"` + to + `"}`)})
		}
	}
	past := timeline(t, two.Store, roomID)
	rejoin(t, one, roomID)
	deliver(t, one, two, timeline(t, one.Store, roomID)[0])
	return roomID, past
}

// TestBackfillAsksLittle: three pages of history take a few requests, and each event has the state before it that it has where it
// comes from.
func TestBackfillAsksLittle(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		remote := &asked{link: one.Remote.(*link)}
		one.Remote = remote
		roomID, past := longRoom(t, one, two, true)
		// What was not asked for is not taken: it might be anywhere.
		unasked := forge(t, two, two, roomID, event.Proto{Type: "m.room.message", Sender: past[0].Sender})
		remote.extra = []json.RawMessage{unasked.JSON}
		pages := 0
		for {
			n, err := one.Backfill(context.Background(), roomID, 60)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
			pages++
		}
		if remote.states > pages || remote.others > 5*pages {
			t.Errorf("%d pages took %d states and %d events", pages, remote.states, remote.others)
		}
		for _, ev := range past {
			got := known(t, db, ev.ID)
			if got.Position >= 0 || !slices.Equal(stateNames(t, db, got), stateNames(t, two.Store, ev)) {
				t.Fatalf("%s %s stands at %d with the state %v before it", ev.Type, ev.Content, got.Position, stateNames(t, db, got))
			}
		}
		if err := db.View(context.Background(), func(tx *store.Tx) error {
			ev, err := tx.Events.Get(unasked.ID)
			if ev != nil {
				t.Error("an event came that is not before any that is here")
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
}

// TestBackfillWithoutStates: a server that does not know the states any more still has its history shown, but never what a
// visibility that is not known might hide.
func TestBackfillWithoutStates(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for _, changes := range []bool{false, true} {
			one, two := pair(t, db)
			remote := &asked{link: one.Remote.(*link), ignorant: true}
			one.Remote = remote
			roomID, past := longRoom(t, one, two, changes)
			for range 10 {
				if n, err := one.Backfill(context.Background(), roomID, 60); err != nil || n == 0 {
					break
				}
			}
			came, visibility := 0, "shared"
			for _, ev := range past {
				if ev.Type == event.TypeHistoryVisibility {
					visibility = event.HistoryVisibility(ev.Content)
				}
				if !seen(t, db, roomID, ev.ID) {
					continue
				}
				came++
				var kept *store.Event
				err := db.View(context.Background(), func(tx *store.Tx) error {
					m, err := tx.States.Map(known(t, db, ev.ID).StateBefore)
					if err == nil {
						kept, err = tx.States.Event(m, event.StateKeyTuple{Type: event.TypeHistoryVisibility})
					}
					return err
				})
				if err != nil || ev.Type != event.TypeHistoryVisibility && ev.Depth > 10 && (kept == nil || event.HistoryVisibility(kept.Content) != visibility) {
					t.Fatalf("an event of the time of %q stands under %v, %v", visibility, kept, err)
				}
			}
			if came < len(past)-20 {
				t.Errorf("%d events of %d came", came, len(past))
			}
		}
	})
}
