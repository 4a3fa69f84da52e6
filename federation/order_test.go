package federation

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/federation/federationtest"
	"github.com/securecomm/securecomm/federation/keyring"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// message forges a message of bob's that follows others.
func (p *peer) message(on *peer, roomID id.RoomID, text string, prev ...id.EventID) *event.Event {
	p.Helper()
	return p.forge(on, roomID, event.Proto{Type: "m.room.message", Sender: bob, Content: json.RawMessage(fmt.Sprintf(`{"body":%q}`, text)), PrevEvents: prev})
}

// deliver sends events in one transaction, and returns what the other server says of them.
func (p *peer) deliver(to *peer, txn string, events ...*event.Event) string {
	p.Helper()
	var raw []json.RawMessage
	for _, ev := range events {
		raw = append(raw, ev.JSON)
	}
	body, err := json.Marshal(map[string]any{"origin": p.name, "origin_server_ts": 1, "pdus": raw})
	if err != nil {
		p.Fatal(err)
	}
	status, answer := p.request(to, "PUT", "/_matrix/federation/v1/send/"+url.PathEscape(txn), string(body), nil)
	return fmt.Sprint(status, answer)
}

// hasten has all that waits of a room be tried now.
func (p *peer) hasten(roomID id.RoomID) {
	p.Helper()
	if err := p.store.Update(p.Context(), func(tx *store.Tx) error { return tx.Held.Hasten(roomID, time.Now()) }); err != nil {
		p.Fatal(err)
	}
	p.api.wakeRetry()
}

// inOrder waits for events and checks that each stands in the room behind the one before it.
func (p *peer) inOrder(events []*event.Event) {
	p.Helper()
	p.await(alice, events[len(events)-1].ID)
	err := p.store.View(p.Context(), func(tx *store.Tx) error {
		last := int64(0)
		for i, ev := range events {
			got, err := tx.Events.Get(ev.ID)
			if err != nil {
				return err
			}
			if got == nil || got.Outlier() {
				p.Errorf("event %d is lost", i)
			} else if last >= int64(got.Position) {
				p.Errorf("event %d stands before the one that it follows", i)
			} else {
				last = int64(got.Position)
			}
		}
		return nil
	})
	if err != nil {
		p.Fatal(err)
	}
}

// mute has a server answer nothing but requests for its keys.
func (p *peer) mute(n *federationtest.Net, status int, answer string) {
	n.Serve(p.name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/key/") {
			p.echo.ServeHTTP(w, r)
			return
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
}

// TestWhatFollowsWaits: what follows an event that a fault of ours keeps out, in the same transaction or a later one, waits as it
// does, whatever becomes of the question for it, and all come in in their order once that is over.
func TestWhatFollowsWaits(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		n := federationtest.New(t, "us.test", "them.test")
		us, them := newPeer(t, n, "us.test", storetest.Open(t, address)), newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db"))
		us.api.FirstPause = time.Hour
		roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat"})
		if err := them.join(roomID, bob, us.name); err != nil {
			t.Fatal(err)
		}
		for i, c := range []struct {
			status int
			answer string
		}{{http.StatusServiceUnavailable, `{}`}, {http.StatusForbidden, `{"errcode":"M_FORBIDDEN"}`}, {http.StatusOK, `{"events":[]}`}} {
			them.mute(n, c.status, c.answer)
			mend := breakEvents(t, address, "hindered")
			chain := []*event.Event{them.message(us, roomID, "hindered")}
			for range 11 {
				chain = append(chain, them.message(us, roomID, "x", chain[len(chain)-1].ID))
			}
			told := them.deliver(us, fmt.Sprint(i, "together"), chain[:3]...)
			for j, ev := range chain[3:] {
				told += them.deliver(us, fmt.Sprint(i, "later", j), ev)
			}
			if waiting := us.holds(them.name); strings.Contains(told, "error") || waiting != int64(len(chain)) {
				t.Fatalf("%s: answered with %s; %d wait", c.answer, told, waiting)
			}
			mend()
			us.hasten(roomID)
			us.inOrder(chain)
			us.awaitNone(c.answer, them.name)
		}
	})
}

// TestWhatCannotBeAskedWaits: an event waits whose predecessors the server that sent it can't be asked for, unless that one is
// not in the room.
func TestWhatCannotBeAskedWaits(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		n := federationtest.New(t, "us.test", "them.test", "out.test")
		us, them := newPeer(t, n, "us.test", storetest.Open(t, address)), newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db"))
		out := newPeer(t, n, "out.test", storetest.Open(t, t.TempDir()+"/out.db"))
		us.api.FirstPause = time.Hour
		roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat"})
		if err := them.join(roomID, bob, us.name); err != nil {
			t.Fatal(err)
		}
		them.mute(n, http.StatusServiceUnavailable, `{}`)
		out.mute(n, http.StatusServiceUnavailable, `{}`)
		first := them.message(us, roomID, "x")
		second := them.message(us, roomID, "y", first.ID)
		if told := out.deliver(us, "1", second); !strings.Contains(told, "error") || us.holds(out.name) != 0 {
			t.Errorf("by a server that is not in the room: %s", told)
		}
		if told := them.deliver(us, "1", second); strings.Contains(told, "error") || us.holds(them.name) != 1 {
			t.Fatalf("answered with %s; %d wait", told, us.holds(them.name))
		}
		them.mute(n, http.StatusOK, fmt.Sprintf(`{"events":[%s]}`, first.JSON))
		us.hasten(roomID)
		us.inOrder([]*event.Event{first, second})
	})
}

// TestEventsWhileJoiningKeepTheirOrder: what is sent while a user joins comes in in its order, though the other server has gone then.
func TestEventsWhileJoiningKeepTheirOrder(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n := federationtest.New(t, "us.test", "them.test")
		us, them := newPeer(t, n, "us.test", db), newPeer(t, n, "them.test", storetest.Open(t, t.TempDir()+"/them.db"))
		us.api.FirstPause = time.Hour
		roomID := them.create(room.Creation{Creator: bob, Preset: "public_chat"})
		var sent []*event.Event
		n.Serve(them.name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/send_join/") {
				them.echo.ServeHTTP(w, r)
				return
			}
			answer := httptest.NewRecorder()
			them.echo.ServeHTTP(answer, r)
			var prev []id.EventID
			for i := range 20 {
				ev := them.message(them, roomID, "x", prev...)
				sent, prev = append(sent, ev), []id.EventID{ev.ID}
				if told := them.deliver(us, fmt.Sprint(i), ev); strings.Contains(told, "error") {
					t.Error(told)
				}
			}
			them.mute(n, http.StatusServiceUnavailable, `{}`)
			_, _ = w.Write(answer.Body.Bytes())
		}))
		if err := us.join(roomID, alice, them.name); err != nil {
			t.Fatal(err)
		}
		us.inOrder(sent)
	})
}

// TestOneThatTakesLongHoldsUpNothing: what there was no time for, since what stands before it took it, was not tried. What can't be
// had since its server has left is told of.
func TestOneThatTakesLongHoldsUpNothing(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		us, them, roomID := sharing(t, address)
		us.api.FirstPause = time.Hour
		breakEvents(t, address, "hindered")
		if told := them.deliver(us, "1", them.message(us, roomID, "hindered 1"), them.message(us, roomID, "hindered 2")); strings.Contains(told, "error") {
			t.Fatal(told)
		}
		take := func(at time.Time) (units []store.HeldUnit) {
			err := us.store.Update(t.Context(), func(tx *store.Tx) (err error) {
				units, err = tx.Held.Take(at, at.Add(time.Minute), us.api.longest(), 8)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return units
		}
		units := take(time.Now().Add(2 * time.Hour))
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if err := us.api.tryLine(over, units); err != nil {
			t.Fatal(err)
		}
		if again := take(time.Now()); len(units) != 2 || len(again) != 1 || again[0].NID != units[1].NID || again[0].Tries != 1 {
			t.Errorf("of %d, next come %v", len(units), again)
		}
		aside := 0
		us.api.SetAside = func() { aside++ }
		if us.api.waits(store.HeldUnit{Origin: "left.test", Room: roomID}, keyring.ErrUnreachable) || aside != 1 {
			t.Errorf("what waits for keys of a server that has left: %d are told of", aside)
		}
	})
}
