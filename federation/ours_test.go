package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestFaultsOfOursStayOurs: what this server has no room for, or breaks off, says nothing of the server that it asked.
func TestFaultsOfOursStayOurs(t *testing.T) {
	for _, fault := range []error{client.ErrBusy, context.Canceled, store.ErrUnavailable, store.ErrClosed} {
		if err := translate(fmt.Errorf("asking them.test: %w", fault)); errors.Is(err, room.ErrUnreachable) || !ours(err) || !errors.Is(err, fault) {
			t.Errorf("%v became %v", fault, err)
		}
	}
	for _, fault := range []error{client.ErrTooLarge, client.ErrSlow, client.ErrMalformed, context.DeadlineExceeded} {
		if err := translate(fmt.Errorf("asking them.test: %w", fault)); !errors.Is(err, room.ErrUnreachable) {
			t.Errorf("%v became %v", fault, err)
		}
	}
}

// crowded is a Remote by which one event is missing, whose state can't be read the first time: there is no room for it.
type crowded struct {
	room.Remote
	missing *event.Event
	state   []id.EventID
	asked   atomic.Int32
}

func (c *crowded) MissingEvents(context.Context, id.ServerName, id.RoomID, []id.EventID, []id.EventID, int) ([]json.RawMessage, error) {
	return []json.RawMessage{c.missing.JSON}, nil
}

func (c *crowded) StateIDs(context.Context, id.ServerName, id.RoomID, id.EventID) (state, auth []id.EventID, err error) {
	if c.asked.Add(1) == 1 {
		return nil, nil, translate(fmt.Errorf("asking them.test: %w", client.ErrBusy))
	}
	return c.state, nil, nil
}

// TestNoRoomForAnswersLosesNothing: an event whose state could not be read, since too many large answers were being read, is
// tried again.
func TestNoRoomForAnswersLosesNothing(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		us, them, roomID := sharing(t, address)
		us.api.FirstPause = time.Microsecond
		message := func(prev ...id.EventID) *event.Event {
			return them.forge(us, roomID, event.Proto{Type: "m.room.message", Sender: bob, Content: json.RawMessage(`{"body":"x"}`), PrevEvents: prev})
		}
		first := message()
		second := message(first.ID)
		third := message(second.ID)
		remote := &crowded{Remote: us.rooms.Remote, missing: second}
		_, _, state := us.stands(roomID)
		for _, ev := range state {
			remote.state = append(remote.state, ev.ID)
		}
		us.rooms.Remote = remote
		body, err := json.Marshal(map[string]any{"origin": them.name, "origin_server_ts": 1, "pdus": []json.RawMessage{third.JSON}})
		if err != nil {
			t.Fatal(err)
		}
		if status, answer := them.request(us, "PUT", "/_matrix/federation/v1/send/1", string(body), nil); status != 200 || strings.Contains(fmt.Sprint(answer), "error") {
			t.Fatalf("answered with %d %v", status, answer)
		}
		us.await(alice, third.ID)
	})
}
