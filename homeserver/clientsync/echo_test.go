package clientsync_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/securecomm/securecomm/homeserver/clientsync"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestOwnEventsAfterTheirAnswer: the device that sent an event is shown it once the answer has gone out, whether its sync
// waited or begins in between. All others are shown it at once.
func TestOwnEventsAfterTheirAnswer(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		r := w.create("alice", room.Creation{})
		waiting, between, other := w.client("alice", ""), w.client("alice", ""), w.client("alice", "")
		other.r.Device = "OTHER"
		for _, c := range []*client{waiting, between, other} {
			c.next()
			c.r.Timeout = clientsync.MaxTimeout
		}
		answered := make(chan struct{})
		shown := make(chan string, 2)
		look := func(c *client) {
			got, err := w.sync.Sync(context.Background(), c.r)
			if err != nil {
				shown <- err.Error()
				return
			}
			select {
			case <-answered:
				shown <- string(got.Body)
			default:
				shown <- "shown before it was answered"
			}
		}
		go look(waiting)
		_, err := w.rooms.Send(context.Background(), room.Message{
			Room: r, Sender: user("alice"), Type: "m.room.message", Content: json.RawMessage(`{"body":"x"}`),
			Request: &store.RequestKey{User: user("alice"), Device: waiting.r.Device, Scope: "send", TxnID: "t1", Answered: answered},
		})
		w.must(err)
		go look(between)
		check(t, "what another device sees", bodies(other.next().Rooms.Join[r].Timeline.Events), "x")
		// Were the others not held, they would be done by the time of some more syncs.
		for range 20 {
			other.r.Timeout = 0
			other.next()
		}
		close(answered)
		for range 2 {
			var a answer
			if text := <-shown; json.Unmarshal([]byte(text), &a) != nil {
				t.Error(text)
			} else if list := a.Rooms.Join[r].Timeline.Events; len(list) != 1 || list[0].Unsigned.Transaction != "t1" {
				t.Errorf("the sending device sees %s", text)
			}
		}
	})
}
