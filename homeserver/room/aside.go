package room

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Leaves of rooms that this server is not in. Their events are kept for the users' clients only.

// leaveHere makes an event for a leave that no other server was told of. It follows the invite or knock that it ends.
func (e *Engine) leaveHere(ctx context.Context, room *store.Room, c Change) (*event.Event, error) {
	content, err := c.content()
	if err != nil {
		return nil, err
	}
	former, err := e.membershipEvent(ctx, room, c.Sender)
	if err != nil {
		return nil, err
	}
	target := string(c.Sender)
	p := event.Proto{
		Type: event.TypeMember, StateKey: &target, Sender: c.Sender, RoomID: room.ID, Content: content,
		PrevEvents: []id.EventID{}, AuthEvents: []id.EventID{}, Depth: 1, OriginServerTS: now(),
	}
	if former != nil {
		p.PrevEvents, p.AuthEvents, p.Depth = []id.EventID{former.ID}, []id.EventID{former.ID}, min(former.Depth, room.Version.MaxDepth-1)+1
		if room.Version.EventIDs == event.EventIDInEvent {
			p.Hashes = map[id.EventID]string{former.ID: former.ReferenceHash()}
		}
	}
	built, err := event.Build(room.Version, p, e.Server, e.Key)
	return built.Event(), err
}

// membershipEvent is the event that made a user's membership what it is; nil if it is not here.
func (e *Engine) membershipEvent(ctx context.Context, room *store.Room, user id.UserID) (out *store.Event, err error) {
	err = e.Store.View(ctx, func(tx *store.Tx) error {
		m, err := tx.Memberships.Get(room.NID, user)
		if err != nil || m.Event == 0 {
			return err
		}
		list, err := tx.Events.ByNID(m.Event)
		if err == nil && len(list) > 0 {
			out = list[0]
		}
		return err
	})
	return out, err
}

// leaveAside ends a membership by an event, a leave or a ban, that is no part of a history here.
func (e *Engine) leaveAside(ctx context.Context, room *store.Room, user id.UserID, leave *event.Event) error {
	nid, err := e.Store.NextNumber(ctx)
	if err != nil {
		return err
	}
	return e.Store.Update(ctx, func(tx *store.Tx) error {
		former, err := tx.Memberships.Get(room.NID, user)
		if err != nil {
			return err
		}
		if known, err := tx.Events.Get(leave.ID); err != nil || known != nil {
			return err // it ended an earlier membership
		}
		if err := tx.Events.InsertAside(&store.Event{Event: leave, NID: store.EventNID(nid), Room: room.NID}); err != nil {
			return err
		}
		m := store.Membership{Room: room.NID, User: user, Membership: leave.Membership(), Event: store.EventNID(nid), Via: former.Via}
		logAside(tx, room, m, former.Membership)
		return nil
	})
}

// receiveOutside takes in events of a room that this server is not in. They may say no more than that an invite or a
// knock of a user of this server no longer holds.
func (e *Engine) receiveOutside(ctx context.Context, roomID id.RoomID, raw []json.RawMessage) []Received {
	out := make([]Received, len(raw))
	for i, r := range raw {
		out[i].ID, out[i].Err = e.receiveEnd(ctx, roomID, r)
	}
	return out
}

// receiveEnd takes in a leave or a ban that ends an invite or a knock.
func (e *Engine) receiveEnd(ctx context.Context, roomID id.RoomID, raw json.RawMessage) (id.EventID, error) {
	unknown := fmt.Errorf("%w: %s", ErrNotFound, roomID)
	var room *store.Room
	err := e.Store.View(ctx, func(tx *store.Tx) (err error) {
		room, err = tx.Rooms.ByID(roomID)
		return err
	})
	if err != nil {
		return "", err
	}
	if room == nil {
		return "", unknown
	}
	ev, err := event.Parse(room.Version, raw)
	if err != nil {
		return "", err
	}
	if ev.RoomID != roomID || ev.Type != event.TypeMember || ev.StateKey == nil || ev.Membership() != "leave" && ev.Membership() != "ban" {
		return ev.ID, unknown
	}
	user, err := id.ParseUserID(*ev.StateKey)
	if err != nil || user.Server() != e.Server {
		return ev.ID, unknown
	}
	begun, err := e.membershipEvent(ctx, room, user)
	if err != nil {
		return ev.ID, err
	}
	via, err := e.viaOf(ctx, roomID, user)
	if err != nil {
		return ev.ID, err
	}
	if begun == nil || !mayEnd(ev, begun.Event, via) {
		return ev.ID, unknown
	}
	result := e.Remote.Verify(ctx, "", []*event.Event{ev})[0]
	if result.Err != nil {
		return ev.ID, result.Err
	}
	return ev.ID, e.leaveAside(ctx, room, user, result.Verified.Event())
}

// mayEnd says whether to believe a leave or a ban that it ends an invite or a knock of a user of this server. Of the
// room's power levels nothing is known here. Who names the invite or the knock among what authorizes the event, as the rules
// ask, is believed: only servers in the room know that ID, and the worst that one of them can do by it is to hide the invite.
// So is the server through which an invite came, since all that is known of the room is from there, and the room may have
// a newer one. A knock is known as it is, and an end that does not name it is that of an earlier one.
func mayEnd(end, begun *event.Event, via id.ServerName) bool {
	m := begun.Membership()
	if m != "invite" && m != "knock" || end.Sender == id.UserID(*end.StateKey) {
		return false
	}
	return slices.Contains(end.AuthEvents, begun.ID) || m == "invite" && end.Sender.Server() == via
}
