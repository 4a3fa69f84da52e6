package clientsync_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

const otherServer id.ServerName = "two.test"

// forker is another server, which lets its events follow whichever it likes.
type forker struct {
	w   *world
	key sign.Key
}

// keyring is a Remote that is asked for nothing but signatures.
type keyring struct {
	room.Remote
	keys map[id.ServerName]sign.Key
}

func (k *keyring) Verify(_ context.Context, _ id.ServerName, events []*event.Event) []room.VerifyResult {
	out := make([]room.VerifyResult, len(events))
	for i, ev := range events {
		out[i].Verified, out[i].Err = event.Verify(ev, func(s id.ServerName, keyID id.KeyID, _ int64) (ed25519.PublicKey, bool) {
			key, ok := k.keys[s]
			return ed25519.PublicKey(key.Public()), ok && key.ID == keyID
		})
	}
	return out
}

func (w *world) forker() *forker {
	w.t.Helper()
	key, err := sign.NewKey()
	w.must(err)
	w.rooms.Remote = &keyring{keys: map[id.ServerName]sign.Key{server: w.rooms.Key, otherServer: key}}
	return &forker{w, key}
}

// timeline are the events of a room, oldest first.
func (f *forker) timeline(roomID id.RoomID) (list []*store.Event) {
	f.w.t.Helper()
	f.w.must(f.w.db.View(context.Background(), func(tx *store.Tx) error {
		r, err := tx.Rooms.ByID(roomID)
		if err != nil {
			return err
		}
		upto, err := tx.Position()
		if err == nil {
			list, err = tx.Events.Range(r.NID, 0, upto, 10_000, false)
		}
		return err
	}))
	return list
}

// send sends an event that follows one of the room, as old as is said. It may be refused.
func (f *forker) send(prev *store.Event, p event.Proto, age time.Duration) error {
	f.w.t.Helper()
	var ev *event.Event
	f.w.must(f.w.db.View(context.Background(), func(tx *store.Tx) error {
		r, err := tx.Rooms.ByNID(prev.Room)
		if err != nil {
			return err
		}
		state, err := tx.States.Behind(prev)
		if err != nil {
			return err
		}
		for _, t := range eventauth.AuthEventsNeeded(r.Version, p.Type, p.StateKey, p.Sender, p.Content) {
			a, err := tx.States.Event(state, t)
			if err != nil {
				return err
			}
			if a != nil {
				p.AuthEvents = append(p.AuthEvents, a.ID)
			}
		}
		p.RoomID, p.PrevEvents, p.Depth, p.OriginServerTS = r.ID, []id.EventID{prev.ID}, prev.Depth+1, time.Now().Add(-age).UnixMilli()
		v, err := event.Build(r.Version, p, otherServer, f.key)
		if err == nil {
			ev = v.Event()
		}
		return err
	}))
	return f.w.rooms.Receive(context.Background(), otherServer, ev.RoomID, []json.RawMessage{ev.JSON})[0].Err
}

// actions lets two users of the other server come into a room, of whom the first has power, and are what they may do then.
func (f *forker) actions(rt *rapid.T, r id.RoomID, eve, frank id.UserID, something func() event.Proto, look, done func()) []func() {
	end := func() *store.Event { list := f.timeline(r); return list[len(list)-1] }
	for _, u := range []id.UserID{eve, frank} {
		key := string(u)
		f.w.must(f.send(end(), event.Proto{Type: event.TypeMember, StateKey: &key, Sender: u, Content: json.RawMessage(`{"membership":"join"}`)}, 0))
	}
	anything := func() {
		list := f.timeline(r)
		prev := list[max(len(list)-1-rapid.IntRange(0, 8).Draw(rt, "back by"), 0)]
		_ = f.send(prev, something(), time.Duration(rapid.IntRange(0, 2).Draw(rt, "age"))*time.Hour)
		done()
	}
	// What was set last loses once the branch before it goes on.
	lose := func() {
		none := ""
		topic := event.Proto{Type: "m.room.topic", StateKey: &none, Sender: eve, Content: json.RawMessage(`{"topic":"kept"}`)}
		_ = f.send(end(), topic, 0)
		kept := end()
		topic.Content = json.RawMessage(`{"topic":"lost"}`)
		_ = f.send(kept, topic, 3*time.Hour)
		done()
		look()
		_ = f.send(kept, event.Proto{Type: "m.room.message", Sender: eve, Content: json.RawMessage(`{"body":"on"}`)}, 0)
		done()
	}
	return []func(){anything, anything, anything, lose}
}

// TestHiddenEventsTieBranches: a message that the filter hides goes on with a branch, whose topic wins by that. Who follows is
// told, though the message itself sets nothing.
func TestHiddenEventsTieBranches(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		other, eve, none := w.forker(), id.UserID("@eve:"+otherServer), ""
		r, self := w.create("alice", room.Creation{}), string(eve)
		w.state(r, "alice", "m.room.power_levels", "", fmt.Sprintf(`{"users":{%q:90}}`, eve))
		end := func() *store.Event { list := other.timeline(r); return list[len(list)-1] }
		topic := func(text string) event.Proto {
			return event.Proto{Type: "m.room.topic", StateKey: &none, Sender: eve, Content: json.RawMessage(fmt.Sprintf(`{"topic":%q}`, text))}
		}
		w.must(other.send(end(), event.Proto{Type: event.TypeMember, StateKey: &self, Sender: eve, Content: json.RawMessage(`{"membership":"join"}`)}, 0))
		var clients []*follower
		for _, after := range []bool{false, true} {
			f := &follower{*w.client("alice", fmt.Sprintf(`{"room":{"timeline":{"not_senders":[%q]}}}`, eve)), r, map[event.StateKeyTuple]ev{}}
			f.r.Device, f.r.UseStateAfter = id.DeviceID(fmt.Sprint(after)), after
			f.sync()
			clients = append(clients, f)
		}
		told := func(want string) {
			t.Helper()
			for _, f := range clients {
				f.sync()
				if got := string(f.known[event.StateKeyTuple{Type: "m.room.topic"}].Content); !strings.Contains(got, want) {
					t.Errorf("device %s knows %s, not %s", f.r.Device, got, want)
				}
			}
		}
		w.must(other.send(end(), topic("kept"), 0))
		kept := end()
		w.must(other.send(kept, topic("lost"), 3*time.Hour))
		told("lost")
		w.must(other.send(kept, event.Proto{Type: "m.room.message", Sender: eve, Content: json.RawMessage(`{"body":"on"}`)}, 0))
		told("kept")
	})
}
