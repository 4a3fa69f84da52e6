package timeline

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// stateEvents reads the events of a state whose names are wanted, in order of their numbers.
func (v *View) stateEvents(state store.StateMap, want func(event.StateKeyTuple) bool) ([]*store.Event, error) {
	keys := make([]int64, 0, state.Len())
	for k := range state.All {
		keys = append(keys, k)
	}
	tuples, err := v.tx.States.Tuples(keys)
	if err != nil {
		return nil, err
	}
	var nids []store.EventNID
	for _, k := range keys {
		if want(tuples[k]) {
			nids = append(nids, state.Get(k))
		}
	}
	slices.Sort(nids)
	return v.tx.Events.ByNID(nids...)
}

func everything(event.StateKeyTuple) bool { return true }

// State reads the state of a room, now or as the reader left it (GET /rooms/{roomId}/state). Error: ErrForbidden.
func (s *Service) State(ctx context.Context, roomID id.RoomID, r Reader) (out []json.RawMessage, err error) {
	err = s.view(ctx, roomID, r, func(v *View) error {
		events, err := v.stateEvents(v.state, everything)
		if err != nil {
			return err
		}
		out, err = v.formState(events)
		return err
	})
	return list(out), err
}

// StateEvent reads one piece of that state, as a whole event or only its content (GET
// /rooms/{roomId}/state/{eventType}/{stateKey}). Errors: ErrForbidden, ErrNotFound.
func (s *Service) StateEvent(ctx context.Context, roomID id.RoomID, r Reader, t event.StateKeyTuple, whole bool) (out json.RawMessage, err error) {
	err = s.view(ctx, roomID, r, func(v *View) error {
		ev, err := v.tx.States.Event(v.state, t)
		if err != nil {
			return err
		}
		if ev == nil {
			return fmt.Errorf("%w: the room has no %s", ErrNotFound, t.Type)
		}
		if out = ev.Content; !whole {
			return nil
		}
		forms, err := v.Form([]*store.Event{ev})
		if err == nil {
			out = forms[0]
		}
		return err
	})
	return out, err
}

// MemberQuery says which members of a room are wanted.
type MemberQuery struct {
	At              string // a token; empty: now, or when the reader left
	Membership, Not string // empty: any
}

// Members reads the members of a room (GET /rooms/{roomId}/members). A time of which the reader may not see the events, or
// before the history that is here, is understood as that of the reader's next join. Errors: ErrForbidden, stream.ErrBadToken.
func (s *Service) Members(ctx context.Context, roomID id.RoomID, r Reader, q MemberQuery) (out []json.RawMessage, err error) {
	err = s.view(ctx, roomID, r, func(v *View) error {
		state, err := v.stateFor(q.At)
		if err != nil {
			return err
		}
		events, err := v.stateEvents(state, func(t event.StateKeyTuple) bool { return t.Type == event.TypeMember })
		if err != nil {
			return err
		}
		events = slices.DeleteFunc(events, func(ev *store.Event) bool {
			m := ev.Membership()
			return q.Membership != "" && m != q.Membership || q.Not != "" && m == q.Not
		})
		out, err = v.formState(events)
		return err
	})
	return list(out), err
}

func (v *View) stateFor(at string) (store.StateMap, error) {
	p, err := position(v.tx, at, v.upto)
	if err != nil || at == "" || p >= v.upto {
		return v.state, err
	}
	if state, ok, err := v.visibleStateAt(p); err != nil || ok {
		return state, err
	}
	history, err := v.tx.Memberships.History(v.room.NID, v.reader.User)
	if err != nil {
		return store.StateMap{}, err
	}
	for _, c := range history {
		if c.Membership == "join" && c.Former != "join" && c.Position > p {
			return v.stateAt(c.Position)
		}
	}
	return v.state, nil
}

// visibleStateAt is the state behind the last event at or before a position; false if there is none, or the reader may
// not see what was then.
func (v *View) visibleStateAt(p stream.Position) (store.StateMap, bool, error) {
	events, err := v.tx.Events.Range(v.room.NID, first, p, 1, true)
	if err != nil || len(events) == 0 {
		return store.StateMap{}, false, err
	}
	_, after, err := v.around(events[0])
	if err != nil || !v.allowed(after, events[0].Position) {
		return store.StateMap{}, false, err
	}
	state, err := v.stateAfter(events[0])
	return state, true, err
}

// Member is how a joined member is shown. What is not set is null, as other servers send it: some clients need the names.
type Member struct {
	DisplayName json.RawMessage `json:"display_name"`
	AvatarURL   json.RawMessage `json:"avatar_url"`
}

// JoinedMembers reads who is in a room now; the reader has to be in it (GET /rooms/{roomId}/joined_members). Error:
// ErrForbidden.
func (s *Service) JoinedMembers(ctx context.Context, roomID id.RoomID, r Reader) (map[id.UserID]Member, error) {
	out := map[id.UserID]Member{}
	err := s.view(ctx, roomID, r, func(v *View) error {
		if v.membership.Membership != "join" {
			return fmt.Errorf("%w: %s", ErrForbidden, roomID)
		}
		events, err := v.stateEvents(v.state, func(t event.StateKeyTuple) bool { return t.Type == event.TypeMember })
		for _, ev := range events {
			if ev.Membership() == "join" {
				out[id.UserID(*ev.StateKey)] = memberOf(ev)
			}
		}
		return err
	})
	return out, err
}

// memberOf reads how a member is shown; what is no string in a member event counts as not set.
func memberOf(ev *store.Event) Member {
	var c struct {
		Name   json.RawMessage `json:"displayname"`
		Avatar json.RawMessage `json:"avatar_url"`
	}
	var m Member
	if json.Unmarshal(ev.Content, &c) == nil {
		m = Member{stringOnly(c.Name), stringOnly(c.Avatar)}
	}
	return m
}

func stringOnly(raw json.RawMessage) json.RawMessage {
	if len(raw) > 0 && raw[0] == '"' {
		return raw
	}
	return nil
}
