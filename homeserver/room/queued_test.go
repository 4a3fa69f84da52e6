package room_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// hold has all that is queued from now on wait, until release is called.
func hold(t *testing.T, db *store.DB) (release func()) {
	t.Helper()
	began, held := make(chan struct{}), make(chan struct{})
	var once sync.Once
	wait, err := db.Queue(context.Background(), func(*store.Tx) error {
		once.Do(func() { close(began) })
		<-held
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	<-began
	release = sync.OnceFunc(func() {
		close(held)
		if err := wait(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(release)
	return release
}

// until waits for a condition.
func until(t *testing.T, met func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("it never was")
		}
	}
}

// early is how long it is looked for an answer that comes before its time. A wrong one comes at once; if the machine is so
// slow that it does not, the test sees nothing.
const early = 200 * time.Millisecond

// silent is a server that has nothing to add to what it is told is here.
type silent struct{ *link }

func (silent) MissingEvents(context.Context, id.ServerName, id.RoomID, []id.EventID, []id.EventID, int) ([]json.RawMessage, error) {
	return nil, nil
}

// TestChildOfAQueuedEvent: one server sends an event that follows what came from another one, and is not committed yet.
func TestChildOfAQueuedEvent(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		f := fork(t, one, two, "11")
		one.Remote = silent{one.Remote.(*link)}
		mallory, old := "@mallory:two.test", f.last()
		first := f.forge(old, event.Proto{Type: event.TypeMember, StateKey: &mallory, Sender: id.UserID(mallory), Content: json.RawMessage(`{"membership":"leave"}`)})
		second := f.forge(old, event.Proto{Type: "m.room.message", Sender: "@bob:two.test", Content: json.RawMessage(`{"body":"hi"}`), PrevEvents: []id.EventID{first.ID}})
		release := hold(t, db)
		receive := func(origin id.ServerName, ev *event.Event) <-chan []room.Received {
			out := make(chan []room.Received, 1)
			go func() { out <- one.Receive(context.Background(), origin, f.room, []json.RawMessage{ev.JSON}) }()
			return out
		}
		results := []<-chan []room.Received{receive("three.test", first)}
		until(t, func() bool {
			now, err := one.StateEventID(context.Background(), f.room, event.StateKeyTuple{Type: event.TypeMember, StateKey: mallory})
			return err != nil || now == first.ID
		})
		results = append(results, receive("two.test", second))
		select {
		case r := <-results[1]:
			t.Fatalf("answered before it can be known: %v", r[0].Err)
		case <-time.After(early):
		}
		release()
		for _, result := range results {
			if r := <-result; r[0].Err != nil {
				t.Error(r[0].Err)
			}
		}
		if f.last() != second.ID {
			t.Error("the event that follows is lost")
		}
	})
}

// TestAccessListThatNeverWas: nobody is barred for good by a list that is not written in the end.
func TestAccessListThatNeverWas(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		f := fork(t, one, two, "11")
		f.set("m.room.server_acl", "", `{"allow":["*"],"deny":["three.test"]}`)
		allowed := func(s id.ServerName) (bool, error) {
			return one.ServerAllowed(context.Background(), f.room, s)
		}
		if ok, err := allowed("three.test"); ok || err != nil {
			t.Fatal(ok, err)
		}
		release := hold(t, db)
		ctx, cancel := context.WithCancel(t.Context())
		sent := make(chan error, 1)
		go func() {
			none := ""
			_, err := one.Send(ctx, room.Message{Room: f.room, Sender: user("alice"), Type: "m.room.server_acl", StateKey: &none, Content: json.RawMessage(`{"allow":["*"],"deny":["two.test"]}`)})
			sent <- err
		}()
		until(t, func() bool {
			ok, err := allowed("three.test")
			return ok || err != nil
		})
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			if ok, err := allowed("two.test"); !ok && !errors.Is(err, room.ErrBusy) {
				t.Errorf("the other server is barred by what is not written: %v", err)
			}
		}()
		select {
		case <-answered:
		case <-time.After(early):
		}
		cancel()
		release()
		if err := <-sent; !errors.Is(err, context.Canceled) {
			t.Errorf("the list was sent: %v", err)
		}
		<-answered
		if ok, err := allowed("two.test"); !ok || err != nil {
			t.Error(ok, err)
		}
	})
}

// TestInviteByWhoWasPutOut: an invite that is built on what was before its sender's ban gets no signature of ours.
func TestInviteByWhoWasPutOut(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		err := db.Update(context.Background(), func(tx *store.Tx) error {
			_, err := tx.Users.Insert(store.User{ID: user("carol")})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		f := fork(t, one, two, "11")
		f.set(event.TypePowerLevels, "", `{"invite":0,"users":{"`+string(user("alice"))+`":100}}`)
		carol, old := string(user("carol")), f.last()
		for _, gone := range []string{"@bob:two.test", "@mallory:two.test"} {
			f.set(event.TypeMember, gone, `{"membership":"ban"}`)
		}
		invite := f.forge(old, event.Proto{Type: event.TypeMember, StateKey: &carol, Sender: "@bob:two.test", Content: json.RawMessage(`{"membership":"invite"}`)})
		for range 2 {
			if _, err := one.ReceiveInvite(context.Background(), two.Server, f.room, invite.ID, "11", invite.JSON, nil); !errors.Is(err, room.ErrForbidden) {
				t.Errorf("the invite was answered with %v", err)
			}
		}
	})
}

// TestKnockIsToldWhatLasts: whoever knocks is not shown what is never written.
func TestKnockIsToldWhatLasts(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		f := fork(t, one, two, "11")
		f.set("m.room.join_rules", "", `{"join_rule":"knock"}`)
		f.set("m.room.name", "", `{"name":"kept"}`)
		dave := "@dave:two.test"
		ev := f.forge(f.last(), event.Proto{Type: event.TypeMember, StateKey: &dave, Sender: id.UserID(dave), Content: json.RawMessage(`{"membership":"knock"}`)})
		knock := func() ([]json.RawMessage, error) {
			return one.ReceiveKnock(context.Background(), two.Server, f.room, ev.ID, ev.JSON)
		}
		if _, err := knock(); err != nil {
			t.Fatal(err)
		}
		sent, none, name := make(chan error, 1), "", event.StateKeyTuple{Type: "m.room.name"}
		kept, err := one.StateEventID(context.Background(), f.room, name)
		if err != nil {
			t.Fatal(err)
		}
		release := hold(t, db)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, err := one.Send(ctx, room.Message{Room: f.room, Sender: user("alice"), Type: name.Type, StateKey: &none, Content: json.RawMessage(`{"name":"lost"}`)})
			sent <- err
		}()
		until(t, func() bool {
			now, err := one.StateEventID(context.Background(), f.room, name)
			return err != nil || now != kept
		})
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			shown, err := knock()
			if text, _ := json.Marshal(shown); strings.Contains(string(text), "lost") || err != nil && !errors.Is(err, room.ErrBusy) {
				t.Errorf("the answer is %s, %v", text, err)
			}
		}()
		select {
		case <-answered:
		case <-time.After(early):
		}
		cancel()
		release()
		if err := <-sent; !errors.Is(err, context.Canceled) {
			t.Errorf("the name was sent: %v", err)
		}
		<-answered
	})
}
