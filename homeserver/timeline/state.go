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

// stateStep is how many events of a state are read at a time: each may be of 64 KB.
const stateStep = 50

// eachOfState reads the events of a state whose names are wanted, in order of their numbers, some at a time: there may be
// very many. No reader of the database is held while they are handed on.
func (v *View) eachOfState(state store.StateMap, want func(event.StateKeyTuple) bool, each func([]*store.Event) error) error {
	keys := make([]int64, 0, state.Len())
	for k := range state.All {
		keys = append(keys, k)
	}
	tuples, err := v.tx.States.Tuples(keys)
	if err != nil {
		return err
	}
	var nids []store.EventNID
	for _, k := range keys {
		if want(tuples[k]) {
			nids = append(nids, state.Get(k))
		}
	}
	slices.Sort(nids)
	for step := range slices.Chunk(nids, stateStep) {
		events, err := v.tx.Events.ByNID(step...)
		if err == nil {
			err = each(events)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// formEach is eachOfState with the events in the form that clients get.
func (v *View) formEach(state store.StateMap, want func(event.StateKeyTuple) bool, keep func(*store.Event) bool, each func([]json.RawMessage) error) error {
	return v.eachOfState(state, want, func(events []*store.Event) error {
		forms, err := v.formState(slices.DeleteFunc(events, func(ev *store.Event) bool { return !keep(ev) }))
		if err != nil {
			return err
		}
		v.tx.Rest()
		return each(forms)
	})
}

// maxWholeState is how many bytes of state stand in an answer that is held as a whole.
const maxWholeState = 16 << 20

// stateEvents reads the events of a state whose names are wanted. Error: ErrTooLarge.
func (v *View) stateEvents(state store.StateMap, want func(event.StateKeyTuple) bool) (out []*store.Event, err error) {
	size := 0
	err = v.eachOfState(state, want, func(events []*store.Event) error {
		sizes, err := v.weigh(events, style{noPast: true})
		if err != nil {
			return err
		}
		for _, n := range sizes {
			size += n
		}
		if out = append(out, events...); size > maxWholeState {
			return ErrTooLarge
		}
		return nil
	})
	return out, err
}

func everything(event.StateKeyTuple) bool { return true }

func isMember(t event.StateKeyTuple) bool { return t.Type == event.TypeMember }

// State reads the state of a room, now or as the reader left it, and hands it on some at a time (GET /rooms/{roomId}/state).
// Error: ErrForbidden.
func (s *Service) State(ctx context.Context, roomID id.RoomID, r Reader, each func([]json.RawMessage) error) error {
	return s.view(ctx, roomID, r, func(v *View) error {
		return v.formEach(v.state, everything, func(*store.Event) bool { return true }, each)
	})
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

// Members reads the members of a room and hands them on some at a time (GET /rooms/{roomId}/members). A time of which the reader may not see the events, or
// before the history that is here, is understood as that of the reader's next join. Errors: ErrForbidden, stream.ErrBadToken.
func (s *Service) Members(ctx context.Context, roomID id.RoomID, r Reader, q MemberQuery, each func([]json.RawMessage) error) error {
	return s.view(ctx, roomID, r, func(v *View) error {
		state, err := v.stateFor(q.At)
		if err != nil {
			return err
		}
		return v.formEach(state, isMember, func(ev *store.Event) bool {
			m := ev.Membership()
			return (q.Membership == "" || m == q.Membership) && (q.Not == "" || m != q.Not)
		}, each)
	})
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
			return v.tx.States.At(v.room.NID, c.Position)
		}
	}
	return v.state, nil
}

// visibleStateAt is the state of the room at a position; false if nothing is known of so long ago, or the reader may not see
// what was then.
func (v *View) visibleStateAt(p stream.Position) (store.StateMap, bool, error) {
	state, err := v.tx.States.At(v.room.NID, p)
	if err != nil || state.Len() == 0 {
		return state, false, err
	}
	then, err := v.sight.In(state)
	if err != nil {
		return state, false, err
	}
	ok, err := v.sight.Allows(then, p)
	return state, ok, err
}

// Member is how a joined member is shown. What is not set is null, as other servers send it: some clients need the names.
type Member struct {
	DisplayName json.RawMessage `json:"display_name"`
	AvatarURL   json.RawMessage `json:"avatar_url"`
}

// JoinedMembers reads who is in a room now and hands them on one by one; the reader has to be in it (GET
// /rooms/{roomId}/joined_members). Error: ErrForbidden.
func (s *Service) JoinedMembers(ctx context.Context, roomID id.RoomID, r Reader, each func(id.UserID, Member) error) error {
	return s.view(ctx, roomID, r, func(v *View) error {
		if v.membership.Membership != "join" {
			return fmt.Errorf("%w: %s", ErrForbidden, roomID)
		}
		return v.eachOfState(v.state, isMember, func(events []*store.Event) error {
			v.tx.Rest()
			for _, ev := range events {
				if ev.Membership() != "join" {
					continue
				}
				if err := each(id.UserID(*ev.StateKey), memberOf(ev)); err != nil {
					return err
				}
			}
			return nil
		})
	})
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
