package room_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// holder is a Remote that says for whom what it answers is held, and until when.
type holder struct {
	*link
	*testing.T
	asked map[string]bool // what was asked, and for whom
	held  int             // answers that are worked on
	join  *room.Joined
}

func (r *holder) asks(ctx context.Context, what string) {
	h := load.HoldOf(ctx)
	if h == nil {
		r.Errorf("nobody holds %s", what)
		return
	}
	r.asked[what+" for "+h.Who] = true
	r.held++
	h.Until(func() { r.held-- })
}

func (r *holder) SendJoin(ctx context.Context, server id.ServerName, join *event.Event) (_ *room.Joined, err error) {
	r.asks(ctx, "a join")
	r.join, err = r.link.SendJoin(ctx, server, join)
	return r.join, err
}

func (r *holder) Backfill(ctx context.Context, server id.ServerName, roomID id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error) {
	r.asks(ctx, "history")
	return r.link.Backfill(ctx, server, roomID, from, limit)
}

func (r *holder) StateIDs(ctx context.Context, server id.ServerName, roomID id.RoomID, at id.EventID) (state, auth []id.EventID, err error) {
	r.asks(ctx, "a state")
	return r.link.StateIDs(ctx, server, roomID, at)
}

func (r *holder) MissingEvents(ctx context.Context, _ id.ServerName, _ id.RoomID, _, _ []id.EventID, _ int) ([]json.RawMessage, error) {
	r.asks(ctx, "missing events")
	return nil, room.ErrUnreachable
}

func (r *holder) Verify(ctx context.Context, server id.ServerName, events []*event.Event) []room.VerifyResult {
	if r.join != nil && len(events) > 1 {
		if r.held == 0 {
			r.Error("a join that is worked on counts no longer")
		}
		if r.join.State != nil || r.join.AuthChain != nil {
			r.Error("the events of a join are held as they came too")
		}
		r.join = nil
	}
	return r.link.Verify(ctx, server, events)
}

// TestAnswersAreHeldWhileTheyAreWorkedOn: what other servers answer counts, as somebody's, until it has been taken in.
func TestAnswersAreHeldWhileTheyAreWorkedOn(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		remote := &holder{link: one.Remote.(*link), T: t, asked: map[string]bool{}}
		one.Remote = remote
		roomID, past := longRoom(t, one, two, false)
		if remote.join != nil {
			t.Error("nothing of the join was verified")
		}
		if _, err := one.Backfill(context.Background(), roomID, 60); err != nil {
			t.Fatal(err)
		}
		bob := past[0].Sender
		follows := forge(t, two, two, roomID, event.Proto{Type: "m.x", Sender: bob, PrevEvents: []id.EventID{"$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}})
		if got := one.Receive(context.Background(), otherServer, roomID, []json.RawMessage{follows.JSON}); got[0].Err == nil {
			t.Error("an event that follows what is not here was taken in")
		}
		for _, what := range []string{"a join for " + string(user("alice")), "history for two.test", "a state for two.test", "missing events for two.test"} {
			if !remote.asked[what] {
				t.Errorf("nobody asked for %s: %v", what, remote.asked)
			}
		}
		if remote.held != 0 {
			t.Errorf("%d answers are held for ever", remote.held)
		}
	})
}

// TestWhatIsHereIsHeldAsOutlines: what describes a room and is here from before is not held a second time, nor is all that
// the events of it are judged by.
func TestWhatIsHereIsHeldAsOutlines(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		e := engine(t, db)
		begin := room.Creation{Preset: "public_chat"}
		for i := range 60 {
			begin.InitialState = append(begin.InitialState, room.StateEvent{Type: "x.y", StateKey: fmt.Sprint(i), Content: json.RawMessage(`{"x":"` + strings.Repeat("x", 30_000) + `"}`)})
		}
		roomID := create(t, e, begin)
		remote := &link{keys: map[id.ServerName]sign.Key{e.Server: e.Key}}
		var events []*event.Event
		for _, ev := range timeline(t, db, roomID) {
			events = append(events, ev.Event)
		}
		var verified []event.Verified
		for _, r := range remote.Verify(context.Background(), "", events) {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
			verified = append(verified, r.Verified)
		}
		n, size, err := room.KeptOutliers(e, roomID, verified)
		if err != nil || n != len(events) || size > 0 {
			t.Errorf("%d of %d events are known, in %d bytes, %v", n, len(events), size, err)
		}
	})
}
