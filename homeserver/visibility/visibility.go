package visibility

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// Moment is what counts for whether an event may be seen: the visibility of the history, and the user's membership, which is
// empty if there never was one.
type Moment struct{ Visibility, Membership string }

// Reader is how a user sees the events of a room within one transaction. It remembers what it has read.
type Reader struct {
	tx   *store.Tx
	room store.RoomNID
	user id.UserID

	visibilityKey, memberKey int64
	moments                  map[store.StateNID]Moment
	said                     map[store.EventNID]string // visibilities and memberships that events have set
	changes                  []store.MembershipChange
	changesRead              bool
}

// Look makes a Reader.
func Look(tx *store.Tx, room store.RoomNID, user id.UserID) (*Reader, error) {
	r := &Reader{tx: tx, room: room, user: user, moments: map[store.StateNID]Moment{}, said: map[store.EventNID]string{}}
	var err error
	if r.visibilityKey, err = tx.States.FindKey(event.StateKeyTuple{Type: event.TypeHistoryVisibility}); err != nil {
		return nil, err
	}
	r.memberKey, err = tx.States.FindKey(event.StateKeyTuple{Type: event.TypeMember, StateKey: string(user)})
	return r, err
}

// Changes are those of the user's membership in the room, in order.
func (r *Reader) Changes() (list []store.MembershipChange, err error) {
	if !r.changesRead {
		r.changes, err = r.tx.Memberships.History(r.room, r.user)
		r.changesRead = err == nil
	}
	return r.changes, err
}

// pieces are the events of a state that set the visibility and the user's membership; 0 if there is none.
type pieces struct{ visibility, member store.EventNID }

func (r *Reader) pieces(state store.StateMap) (p pieces) {
	if r.visibilityKey != 0 {
		p.visibility = state.Get(r.visibilityKey)
	}
	if r.memberKey != 0 {
		p.member = state.Get(r.memberKey)
	}
	return p
}

// readAtOnce is how many events are read at a time: each may be of 64 KB.
const readAtOnce = 50

func (r *Reader) read(nids ...store.EventNID) error {
	nids = slices.DeleteFunc(nids, func(nid store.EventNID) bool { _, known := r.said[nid]; return known || nid == 0 })
	slices.Sort(nids)
	for some := range slices.Chunk(slices.Compact(nids), readAtOnce) {
		events, err := r.tx.Events.ByNID(some...)
		if err != nil {
			return err
		}
		for _, ev := range events {
			if ev.Type == event.TypeMember {
				r.said[ev.NID] = ev.Membership()
			} else {
				r.said[ev.NID] = event.HistoryVisibility(ev.Content)
			}
		}
	}
	return nil
}

func (r *Reader) moment(p pieces) Moment {
	m := Moment{"shared", r.said[p.member]}
	if said, ok := r.said[p.visibility]; ok {
		m.Visibility = said
	}
	return m
}

// Gather reads at once what Visible and Around need to know about events.
func (r *Reader) Gather(events []*store.Event) error {
	unknown := map[store.StateNID]pieces{}
	var nids []store.EventNID
	for _, ev := range events {
		if _, known := r.moments[ev.StateBefore]; known {
			continue
		}
		if _, found := unknown[ev.StateBefore]; found {
			continue
		}
		state, err := r.tx.States.Map(ev.StateBefore)
		if err != nil {
			return fmt.Errorf("the state before %s: %w", ev.ID, err)
		}
		p := r.pieces(state)
		unknown[ev.StateBefore] = p
		nids = append(nids, p.visibility, p.member)
	}
	if err := r.read(nids...); err != nil {
		return err
	}
	for nid, p := range maps.All(unknown) {
		r.moments[nid] = r.moment(p)
	}
	return nil
}

// In is how things stand for the user in a state.
func (r *Reader) In(state store.StateMap) (Moment, error) {
	p := r.pieces(state)
	err := r.read(p.visibility, p.member)
	return r.moment(p), err
}

// Around is how things stood for the user before and after an event.
func (r *Reader) Around(ev *store.Event) (before, after Moment, err error) {
	before, known := r.moments[ev.StateBefore]
	if !known {
		if err := r.Gather([]*store.Event{ev}); err != nil {
			return before, before, err
		}
		before = r.moments[ev.StateBefore]
	}
	after = before
	switch {
	case ev.StateKeyIs(event.TypeHistoryVisibility, ""):
		after.Visibility = event.HistoryVisibility(ev.Content)
	case ev.StateKeyIs(event.TypeMember, string(r.user)):
		after.Membership = ev.Membership()
	}
	return before, after, nil
}

// Visible says whether the user may see an event (Client-Server API, "Room history visibility", "Server behaviour"). For
// changes of the visibility and of the user's own membership, before or after is enough.
func (r *Reader) Visible(ev *store.Event) (bool, error) {
	if ev.Room != r.room || ev.Rejected || ev.SoftFailed || ev.Withheld || ev.Position == 0 {
		return false, nil
	}
	before, after, err := r.Around(ev)
	if err != nil {
		return false, err
	}
	ok, err := r.Allows(before, ev.Position)
	if err != nil || ok || after == before {
		return ok, err
	}
	return r.Allows(after, ev.Position)
}

// Allows says whether a moment lets the user see an event that came at a position. Of an event in a shared history that says
// nothing of the user's join, be it before it or aside of it, the join was later if the user was in the room when the event
// came, or has been since.
func (r *Reader) Allows(m Moment, at stream.Position) (bool, error) {
	switch {
	case m.Visibility == "world_readable", m.Membership == "join":
		return true, nil
	case m.Visibility == "shared":
		changes, err := r.Changes()
		return joinedSince(changes, at), err
	case m.Visibility == "invited":
		return m.Membership == "invite", nil
	default:
		return false, nil
	}
}

// joinedSince says whether the user was joined at a position or at some time behind it.
func joinedSince(changes []store.MembershipChange, p stream.Position) (joined bool) {
	for _, c := range changes {
		if joins := c.Membership == "join"; c.Position <= p {
			joined = joins
		} else {
			joined = joined || joins
		}
	}
	return joined
}

// IgnoredType is the account data that says whom a user ignores.
const IgnoredType = "m.ignored_user_list"

// Ignored are the users that a user ignores by the content of that data (Client-Server API, "Ignoring Users"): never
// themselves, and nobody if it is broken. It is nil if there are none.
func Ignored(user id.UserID, content json.RawMessage) map[id.UserID]bool {
	var list struct {
		Users map[id.UserID]json.RawMessage `json:"ignored_users"`
	}
	if len(content) == 0 || json.Unmarshal(content, &list) != nil {
		return nil
	}
	delete(list.Users, user)
	if len(list.Users) == 0 {
		return nil
	}
	out := make(map[id.UserID]bool, len(list.Users))
	for u := range list.Users {
		out[u] = true
	}
	return out
}
