package push

import (
	"encoding/json"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/pushrule"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Room is what push rules ask of a room, as it is now. It is read when it is first asked for, and lasts as
// long as the transaction.
type Room struct {
	tx      *store.Tx
	nid     store.RoomNID
	members int64
	loaded  bool
	state   store.StateMap
	powers  *eventauth.Context
}

// OpenRoom reads what most rules ask of a room.
func OpenRoom(tx *store.Tx, nid store.RoomNID) (*Room, error) {
	summary, err := tx.Rooms.Summary(nid)
	if err != nil {
		return nil, err
	}
	return &Room{tx: tx, nid: nid, members: summary.JoinedMembers}, nil
}

// Message is an event of the room, ready for evaluation.
func (r *Room) Message(e *event.Event) *pushrule.Message {
	return &pushrule.Message{Event: e, Members: r.members, MayNotify: func(key string) bool {
		if r.powers == nil && r.loadPowers() != nil {
			return false
		}
		return r.powers.UserLevel(e.Sender) >= r.powers.Levels().Notification(key)
	}}
}

// DisplayName is the name of a user in the room; empty if there is none.
func (r *Room) DisplayName(user id.UserID) string {
	if r.load() != nil {
		return ""
	}
	e, err := r.tx.States.Event(r.state, event.StateKeyTuple{Type: event.TypeMember, StateKey: string(user)})
	if err != nil || e == nil {
		return ""
	}
	var content struct {
		Name string `json:"displayname"`
	}
	if json.Unmarshal(e.Content, &content) != nil {
		return "" // a name that is none is not in any text
	}
	return content.Name
}

func (r *Room) load() error {
	if r.loaded {
		return nil
	}
	head, err := r.tx.Rooms.Head(r.nid)
	if err != nil {
		return err
	}
	if r.state, err = r.tx.States.Map(head.State); err != nil {
		return err
	}
	r.loaded = true
	return nil
}

func (r *Room) loadPowers() error {
	if err := r.load(); err != nil {
		return err
	}
	state := eventauth.Map{}
	for _, typ := range []string{event.TypeCreate, event.TypePowerLevels} {
		tuple := event.StateKeyTuple{Type: typ}
		e, err := r.tx.States.Event(r.state, tuple)
		if err != nil {
			return err
		}
		if e != nil {
			state[tuple] = e.Event
		}
	}
	r.powers = eventauth.NewContext(state, state.Get(event.TypeCreate, ""))
	return nil
}
