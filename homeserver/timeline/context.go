package timeline

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Context is an event with what stands around it.
type Context struct {
	Start  string            `json:"start"`
	End    string            `json:"end"`
	Before []json.RawMessage `json:"events_before"` // newest first
	Event  json.RawMessage   `json:"event"`
	After  []json.RawMessage `json:"events_after"`
	State  []json.RawMessage `json:"state"`
}

// Context reads an event and up to limit events around it (GET /rooms/{roomId}/context/{eventId}). Error:
// ErrNotFound, also if the reader may not see the event.
func (s *Service) Context(ctx context.Context, roomID id.RoomID, r Reader, eventID id.EventID, limit int, f *filter.RoomEvents) (*Context, error) {
	var out *Context
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		v, err := find(tx, roomID, r)
		if err != nil {
			return err
		}
		ev, err := v.eventByID(eventID)
		if err != nil {
			return err
		}
		out, err = v.context(ev, limit/2, limit-limit/2, f)
		return err
	})
	return out, err
}

func (v *View) context(ev *store.Event, before, after int, f *filter.RoomEvents) (*Context, error) {
	pass := passes(v.room.ID, f)
	back := &reading{backwards: true, cursor: ev.Position - 1, edge: first, limit: min(before, MaxLimit), stretches: 2, pass: pass}
	ahead := &reading{cursor: ev.Position, edge: v.upto, limit: min(after, MaxLimit), pass: pass}
	if ev.Position != 0 {
		if err := v.read(back); err != nil {
			return nil, err
		}
		if err := v.read(ahead); err != nil {
			return nil, err
		}
	}
	all := slices.Concat([]*store.Event{ev}, back.events, ahead.events)
	forms, err := v.Form(all)
	if err != nil {
		return nil, err
	}
	n := 1 + len(back.events)
	out := &Context{Start: v.tx.Token(back.cursor), End: v.tx.Token(ahead.cursor), Event: forms[0], Before: list(forms[1:n]), After: list(forms[n:])}
	out.State, err = v.contextState(all, f)
	return out, err
}

// contextState encodes the state of the room at the newest of some events; only of the members who sent them if the client
// loads members lazily, or if all would be too much.
func (v *View) contextState(events []*store.Event, f *filter.RoomEvents) ([]json.RawMessage, error) {
	newest := slices.MaxFunc(events, func(a, b *store.Event) int { return cmp.Compare(a.Position, b.Position) })
	state, err := v.stateUpTo(newest)
	if err != nil {
		return nil, err
	}
	senders := map[id.UserID]bool{}
	for _, ev := range events {
		senders[ev.Sender] = true
	}
	some := func(t event.StateKeyTuple) bool { return !isMember(t) || senders[id.UserID(t.StateKey)] }
	want := everything
	if f != nil && f.LazyLoadMembers {
		want = some
	}
	found, err := v.stateEvents(state, want)
	if errors.Is(err, ErrTooLarge) {
		found, err = v.stateEvents(state, some)
	}
	if err != nil {
		return nil, err
	}
	forms, err := v.formState(found)
	return list(forms), err
}

// stateUpTo is the state that all branches of the room had at an event. Where the reader may not see that, since the event
// came late, it is the one behind the event on its own branch.
func (v *View) stateUpTo(ev *store.Event) (store.StateMap, error) {
	if ev.Outlier() || ev.Position >= v.upto {
		return v.state, nil
	}
	if state, ok, err := v.visibleStateAt(ev.Position); err != nil || ok {
		return state, err
	}
	return v.tx.States.Behind(ev)
}
