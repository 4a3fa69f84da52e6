package push

import (
	"encoding/json"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/pushrule"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Room is what push rules ask of a room, as it is now. Its messages may be used when the transaction is over.
type Room struct {
	tx      *store.Tx
	members int64
	state   store.StateMap
	powers  *eventauth.Context
}

// OpenRoom reads what rules ask of a room.
func OpenRoom(tx *store.Tx, nid store.RoomNID) (*Room, error) {
	summary, err := tx.Rooms.Summary(nid)
	if err != nil {
		return nil, err
	}
	head, err := tx.Rooms.Head(nid)
	if err != nil {
		return nil, err
	}
	r := &Room{tx: tx, members: summary.JoinedMembers}
	if r.state, err = tx.States.Map(head.State); err != nil {
		return nil, err
	}
	state := eventauth.Map{}
	for _, typ := range []string{event.TypeCreate, event.TypePowerLevels} {
		tuple := event.StateKeyTuple{Type: typ}
		e, err := tx.States.Event(r.state, tuple)
		if err != nil {
			return nil, err
		}
		if e != nil {
			state[tuple] = e.Event
		}
	}
	r.powers = eventauth.NewContext(state, state.Get(event.TypeCreate, ""))
	return r, nil
}

// Message is an event of the room, ready for evaluation.
func (r *Room) Message(e *event.Event) *pushrule.Message {
	return &pushrule.Message{Event: e, Members: r.members, MayNotify: func(key string) bool {
		return r.powers.UserLevel(e.Sender) >= r.powers.Levels().Notification(key)
	}}
}

// DisplayName is the name of a user in the room; empty if there is none.
func (r *Room) DisplayName(user id.UserID) (string, error) {
	e, err := r.tx.States.Event(r.state, event.StateKeyTuple{Type: event.TypeMember, StateKey: string(user)})
	if err != nil || e == nil {
		return "", err
	}
	var content struct {
		Name string `json:"displayname"`
	}
	if json.Unmarshal(e.Content, &content) != nil {
		return "", nil // a name that is none is not in any text
	}
	return content.Name, nil
}
