package room_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// liar is a Remote whose server says what it likes of the past of events.
type liar struct {
	room.Remote
	missing []json.RawMessage
	state   []id.EventID
}

func (l *liar) MissingEvents(context.Context, id.ServerName, id.RoomID, []id.EventID, []id.EventID, int) ([]json.RawMessage, error) {
	return l.missing, nil
}

func (l *liar) StateIDs(context.Context, id.ServerName, id.RoomID, id.EventID) (state, auth []id.EventID, err error) {
	return l.state, nil, nil
}

func (l *liar) State(context.Context, id.ServerName, id.RoomID, id.EventID) (state, auth []json.RawMessage, err error) {
	return nil, nil, nil
}

// TestLiesAboutStateLoseNothing: a server that relays an event of another one, with a false state before it, does not
// make us refuse that event for ever.
func TestLiesAboutStateLoseNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		one, two := pair(t, db)
		bob := id.UserID("@bob:" + string(otherServer))
		roomID, err := two.Create(ctx, room.Creation{Creator: bob, Preset: "public_chat"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		rejoin(t, one, roomID)
		say := func() *store.Event {
			return send(t, two, room.Message{Room: roomID, Sender: bob, Type: "m.room.message"})
		}
		create := timeline(t, two.Store, roomID)[0]
		if create.Type != event.TypeCreate {
			t.Fatalf("the room begins with %s", create.Type)
		}
		honest := one.Remote
		for name, state := range map[string][]id.EventID{
			"no state":        nil,
			"only the create": {create.ID},
			"a hole":          {create.ID, "$nosuch"},
		} {
			first := say()
			banned := "@eve:liar.test"
			ban := send(t, two, room.Message{Room: roomID, Sender: bob, Type: event.TypeMember, StateKey: &banned, Content: json.RawMessage(`{"membership":"ban","reason":"` + name + `"}`)})
			last := say()
			one.Remote = &liar{Remote: honest, missing: []json.RawMessage{ban.JSON}, state: state}
			for _, r := range one.Receive(ctx, "liar.test", roomID, []json.RawMessage{last.JSON}) {
				if r.Err == nil {
					t.Errorf("%s: an event behind a gap was taken", name)
				}
			}
			one.Remote = honest
			for _, ev := range []*store.Event{first, ban, last} {
				deliver(t, two, one, ev)
				var got *store.Event
				err := db.View(ctx, func(tx *store.Tx) error {
					got, err = tx.Events.Get(ev.ID)
					return err
				})
				if err != nil || got == nil || got.Rejected || got.SoftFailed || got.Outlier() {
					t.Fatalf("%s: %s is here as %+v (%v)", name, ev.Type, got, err)
				}
			}
		}
	})
}
