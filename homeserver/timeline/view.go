package timeline

import (
	"encoding/json"
	"fmt"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// View is how one user sees one room within one transaction. It remembers what it has read and must not outlive
// the transaction.
type View struct {
	tx     *store.Tx
	room   *store.Room
	reader Reader

	membership store.Membership // now
	readable   bool             // the room is world_readable now
	inside     bool             // the reader may look into the room: is or was in it, or anyone may
	upto       stream.Position  // where what the reader may see ends
	lastJoin   stream.Position  // 0 if the reader never joined
	state      store.StateMap   // now, or as the reader left it

	memberKey, visibilityKey int64
	moments                  map[store.StateNID]moment
	ignored                  map[id.UserID]bool // nil until read
	erased                   Erased
	budget                   *Budget // of the answer that the view is for
}

// moment is what counts for whether an event may be seen.
type moment struct{ visibility, membership string }

// Look makes a reader's view of a room.
func Look(tx *store.Tx, room *store.Room, r Reader) (*View, error) {
	v := &View{tx: tx, room: room, reader: r, upto: last, moments: map[store.StateNID]moment{}, erased: Erased{}, budget: &Budget{}}
	var err error
	if v.visibilityKey, err = tx.States.FindKey(event.StateKeyTuple{Type: event.TypeHistoryVisibility}); err != nil {
		return nil, err
	}
	if v.memberKey, err = tx.States.FindKey(event.StateKeyTuple{Type: event.TypeMember, StateKey: string(r.User)}); err != nil {
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
	now, err := v.momentOf(head.State)
	if err != nil {
		return nil, err
	}
	v.readable = now.visibility == "world_readable"
	v.inside = v.readable || v.membership.Membership == "join"
	return v, v.readHistory()
}

// readHistory finds out when the reader came and left.
func (v *View) readHistory() error {
	history, err := v.tx.Memberships.History(v.room.NID, v.reader.User)
	if err != nil {
		return err
	}
	left := stream.Position(0)
	for _, c := range history {
		if c.Membership == "join" && c.Former != "join" {
			v.lastJoin = c.Position
		}
		if c.Former == "join" && c.Membership != "join" {
			left = c.Position
		}
	}
	if v.inside || left == 0 || v.membership.Forgotten || v.membership.Membership != "leave" && v.membership.Membership != "ban" {
		return nil
	}
	v.inside, v.upto = true, left
	v.state, err = v.tx.States.At(v.room.NID, left)
	return err
}

// Room is the room that is looked at.
func (v *View) Room() *store.Room { return v.room }

func (v *View) momentOf(nid store.StateNID) (moment, error) {
	if m, ok := v.moments[nid]; ok {
		return m, nil
	}
	state, err := v.tx.States.Map(nid)
	if err != nil {
		return moment{}, err
	}
	out, err := v.momentIn(state)
	if err == nil {
		v.moments[nid] = out
	}
	return out, err
}

func (v *View) momentIn(state store.StateMap) (moment, error) {
	out := moment{"shared", ""}
	if e, err := v.eventIn(state, v.visibilityKey); err != nil {
		return out, err
	} else if e != nil {
		out.visibility = event.HistoryVisibility(e.Content)
	}
	if e, err := v.eventIn(state, v.memberKey); err != nil {
		return out, err
	} else if e != nil {
		out.membership = e.Membership()
	}
	return out, nil
}

func (v *View) eventIn(state store.StateMap, key int64) (*store.Event, error) {
	if key == 0 {
		return nil, nil
	}
	nid := state.Get(key)
	if nid == 0 {
		return nil, nil
	}
	events, err := v.tx.Events.ByNID(nid)
	if err != nil || len(events) == 0 {
		return nil, err
	}
	return events[0], nil
}

// around is how things stood for the reader before and after an event.
func (v *View) around(ev *store.Event) (before, after moment, err error) {
	if before, err = v.momentOf(ev.StateBefore); err != nil {
		return before, before, fmt.Errorf("the state before %s: %w", ev.ID, err)
	}
	after = before
	switch {
	case ev.StateKeyIs(event.TypeHistoryVisibility, ""):
		after.visibility = event.HistoryVisibility(ev.Content)
	case ev.StateKeyIs(event.TypeMember, string(v.reader.User)):
		after.membership = ev.Membership()
	}
	return before, after, nil
}

// Visible says whether the reader may see an event (Client-Server API, "Room history visibility", "Server
// behaviour"). For changes of the visibility and of the reader's own membership, before or after is enough.
func (v *View) Visible(ev *store.Event) (bool, error) {
	if ev.Room != v.room.NID || ev.Rejected || ev.SoftFailed || ev.Withheld || ev.Position == 0 {
		return false, nil
	}
	before, after, err := v.around(ev)
	if err != nil {
		return false, err
	}
	if v.membership.Forgotten {
		return v.readable && before.visibility == "world_readable", nil
	}
	return v.allowed(before, ev.Position) || after != before && v.allowed(after, ev.Position), nil
}

func (v *View) allowed(m moment, at stream.Position) bool {
	switch {
	case m.visibility == "world_readable", m.membership == "join":
		return true
	case m.visibility == "shared":
		return v.lastJoin > at
	case m.visibility == "invited":
		return m.membership == "invite"
	default:
		return false
	}
}

// See keeps those events that the reader may see and wants to: messages of ignored users are left out. What
// erased users wrote comes redacted to readers who were not in the room at the time (Client-Server API, "Account deactivation").
func (v *View) See(events []*store.Event) ([]*store.Event, error) {
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
	seen := make([]*store.Event, len(events))
	for i, ev := range events {
		if !pass(ev) {
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
	before, _, err := v.around(ev)
	if err != nil || before.membership == "join" || ev.StateKey != nil {
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
		v.ignored = map[id.UserID]bool{}
		raw, _, err := v.tx.AccountData.Get(v.reader.User, "", "m.ignored_user_list")
		if err != nil {
			return false, err
		}
		var c struct {
			Users map[id.UserID]json.RawMessage `json:"ignored_users"`
		}
		if len(raw) > 0 && json.Unmarshal(raw, &c) == nil {
			for u := range c.Users {
				v.ignored[u] = true
			}
		}
	}
	return v.ignored[u], nil
}
