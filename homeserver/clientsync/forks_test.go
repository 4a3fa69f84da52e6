package clientsync_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"time"

	"pgregory.net/rapid"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
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
