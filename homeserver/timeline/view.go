package timeline

import (
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
	"github.com/securecomm/securecomm/homeserver/visibility"
)

// View is how one user sees one room within one transaction. It remembers what it has read and must not outlive
// the transaction.
type View struct {
	tx     *store.Tx
	room   *store.Room
	reader Reader

	membership store.Membership   // now
	readable   bool               // the room is world_readable now
	inside     bool               // the reader may look into the room: is or was in it, or anyone may
	upto       stream.Position    // where what the reader may see ends
	state      store.StateMap     // now, or as the reader left it
	sight      *visibility.Reader // by the state before each event
	ignored    map[id.UserID]bool // nil until read
	erased     Erased
	budget     *Budget // of the answer that the view is for
}

// Look makes a reader's view of a room.
func Look(tx *store.Tx, room *store.Room, r Reader) (*View, error) {
	v := &View{tx: tx, room: room, reader: r, upto: last, erased: Erased{}, budget: &Budget{}}
	var err error
	if v.sight, err = visibility.Look(tx, room.NID, r.User); err != nil {
		return nil, err
	}
	if v.membership, err = tx.Memberships.Get(room.NID, r.User); err != nil {
		return nil, err
	}
	head, err := tx.Rooms.Head(room.NID)
	if err != nil {
		return nil, err
	}
	if v.state, err = tx.States.Map(head.State); err != nil {
		return nil, err
	}
	now, err := v.sight.In(v.state)
	if err != nil {
		return nil, err
	}
	v.readable = now.Visibility == "world_readable"
	v.inside = v.readable || v.membership.Membership == "join"
	if v.inside || v.membership.Forgotten || v.membership.Membership != "leave" && v.membership.Membership != "ban" {
		return v, nil
	}
	return v, v.lookBack()
}

// lookBack is for a reader who is no longer in the room: it ends where they left.
func (v *View) lookBack() error {
	history, err := v.sight.Changes()
	if err != nil {
		return err
	}
	left := stream.Position(0)
	for _, c := range history {
		if c.Former == "join" && c.Membership != "join" {
			left = c.Position
		}
	}
	if left == 0 {
		return nil
	}
	v.inside, v.upto = true, left
	v.state, err = v.tx.States.At(v.room.NID, left)
	return err
}

// Room is the room that is looked at.
func (v *View) Room() *store.Room { return v.room }

// Visible says whether the reader may see an event. Of a room that they have forgotten, that is what anyone may.
func (v *View) Visible(ev *store.Event) (bool, error) {
	visible, err := v.sight.Visible(ev)
	if err != nil || !visible || !v.membership.Forgotten {
		return visible, err
	}
	before, _, err := v.sight.Around(ev)
	return v.readable && before.Visibility == "world_readable", err
}

// See keeps those events that the reader may see and wants to: messages of ignored users are left out. What
// erased users wrote comes redacted to readers who were not in the room at the time (Client-Server API, "Account deactivation").
func (v *View) See(events []*store.Event) ([]*store.Event, error) {
	if err := v.sight.Gather(events); err != nil {
		return nil, err
	}
	out := make([]*store.Event, 0, len(events))
	for _, ev := range events {
		seen, err := v.see(ev)
		if err != nil {
			return nil, err
		}
		if seen != nil {
			out = append(out, seen)
		}
	}
	return out, nil
}

// seeAndWeigh is what the reader sees of those events that pass, nil of the others, and how many bytes that adds to an answer.
func (v *View) seeAndWeigh(events []*store.Event, pass func(*store.Event) bool) ([]*store.Event, []int, error) {
	seen, wanted := make([]*store.Event, len(events)), make([]*store.Event, 0, len(events))
	for i, ev := range events {
		if pass(ev) {
			seen[i], wanted = ev, append(wanted, ev)
		}
	}
	if err := v.sight.Gather(wanted); err != nil {
		return nil, nil, err
	}
	for i, ev := range seen {
		if ev == nil {
			continue
		}
		var err error
		if seen[i], err = v.see(ev); err != nil {
			return nil, nil, err
		}
	}
	sizes, err := v.weigh(seen, style{})
	return seen, sizes, err
}

func (v *View) see(ev *store.Event) (*store.Event, error) {
	if visible, err := v.Visible(ev); err != nil || !visible {
		return nil, err
	}
	if ev.Sender == v.reader.User {
		return ev, nil
	}
	if ev.StateKey == nil {
		if ignored, err := v.ignores(ev.Sender); err != nil || ignored {
			return nil, err
		}
	}
	return v.unlessErased(ev)
}

func (v *View) unlessErased(ev *store.Event) (*store.Event, error) {
	before, _, err := v.sight.Around(ev)
	if err != nil || before.Membership == "join" || ev.StateKey != nil {
		return ev, err
	}
	return v.erased.Show(v.tx, ev)
}

// Erased remembers which users of this server have been erased (Client-Server API, "Account deactivation").
type Erased map[id.UserID]bool

// Show is an event as who was not in the room at its time may see it: without its content if its sender has been erased.
func (e Erased) Show(tx *store.Tx, ev *store.Event) (*store.Event, error) {
	erased, known := e[ev.Sender]
	if !known {
		user, _, err := tx.Users.Get(ev.Sender)
		if err != nil {
			return nil, err
		}
		erased = user.Erased
		e[ev.Sender] = erased
	}
	if !erased {
		return ev, nil
	}
	return redacted(ev)
}

// redacted is an event without what a redaction takes away.
func redacted(ev *store.Event) (*store.Event, error) {
	short, err := ev.Redact()
	if err != nil {
		return nil, err
	}
	return &store.Event{Event: short, NID: ev.NID, Room: ev.Room, Position: ev.Position, StateBefore: ev.StateBefore, RedactedBy: ev.RedactedBy}, nil
}

// ignores says whether the reader wants nothing of a user (Client-Server API, "Ignoring Users").
func (v *View) ignores(u id.UserID) (bool, error) {
	if v.ignored == nil {
		content, _, err := v.tx.AccountData.Get(v.reader.User, "", visibility.IgnoredType)
		if err != nil {
			return false, err
		}
		if v.ignored = visibility.Ignored(v.reader.User, content); v.ignored == nil {
			v.ignored = map[id.UserID]bool{}
		}
	}
	return v.ignored[u], nil
}
