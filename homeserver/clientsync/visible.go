package clientsync

import (
	"cmp"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
	history "github.com/securecomm/securecomm/homeserver/timeline"
	"github.com/securecomm/securecomm/homeserver/visibility"
)

// spans are the changes of the user's membership in a room, in order.
type spans struct{ list []store.MembershipChange }

// at is the membership at a position; "leave" before the first one.
func (s *spans) at(p stream.Position) string {
	out := "leave"
	for _, c := range s.list {
		if c.Position > p {
			break
		}
		out = c.Membership
	}
	return out
}

// before is the membership that a position found.
func (s *spans) before(p stream.Position) string { return s.at(p - 1) }

// joinsAfter says whether the user was joined at some time behind a position.
func (s *spans) joinsAfter(p stream.Position) bool {
	for _, c := range s.list {
		if c.Position > p && c.Membership == "join" {
			return true
		}
	}
	return false
}

// leftBy is where the user left last, at or before a position.
func (s *spans) leftBy(p stream.Position) stream.Position {
	left := stream.Position(0)
	for _, c := range s.list {
		if c.Former == "join" && c.Membership != "join" && c.Position <= p {
			left = c.Position
		}
	}
	return left
}

func (b *builder) loadSpans(v *visit) error {
	if v.spans != nil {
		return nil
	}
	sight, err := b.sight(v)
	if err != nil {
		return err
	}
	list, err := sight.Changes()
	if err != nil {
		return err
	}
	v.spans = &spans{list}
	return nil
}

// sight is how the user sees the room.
func (b *builder) sight(v *visit) (sight *visibility.Reader, err error) {
	if v.sight == nil {
		v.sight, err = visibility.Look(b.tx, v.room, b.p.user)
	}
	return v.sight, err
}

// inLine says whether the state before an event is known to be that of the room at its position, in which the user was joined:
// they see it then, and nothing has to be read for it.
func (b *builder) inLine(v *visit, ev *store.Event) bool {
	return !b.ties(ev) && (v.spans == nil || v.spans.before(ev.Position) == "join")
}

// foresee reads at once what visible asks about events.
func (b *builder) foresee(v *visit, events []*store.Event) error {
	var apart []*store.Event
	for _, ev := range events {
		if !ev.Withheld && !b.inLine(v, ev) {
			apart = append(apart, ev)
		}
	}
	if len(apart) == 0 {
		return nil
	}
	sight, err := b.sight(v)
	if err != nil {
		return err
	}
	return sight.Gather(apart)
}

// membershipAt is the user's membership when an event happened.
func (b *builder) membershipAt(v *visit, ev *store.Event) (string, error) {
	if b.inLine(v, ev) {
		if v.spans == nil {
			return "join", nil // all the time
		}
		return v.spans.at(ev.Position), nil
	}
	sight, err := b.sight(v)
	if err != nil {
		return "", err
	}
	_, after, err := sight.Around(ev)
	return cmp.Or(after.Membership, "leave"), err
}

// visible says whether the user may see an event. They are always told how they left a room.
func (b *builder) visible(v *visit, ev *store.Event) (bool, error) {
	switch {
	case b.inLine(v, ev), v.leave != 0 && ev.NID == v.leave:
		return true, nil
	case v.never && !ev.StateKeyIs(event.TypeMember, string(b.p.user)):
		return false, nil
	}
	sight, err := b.sight(v)
	if err != nil {
		return false, err
	}
	return sight.Visible(ev)
}

// unlessErased is an event as who was not in the room at the time may see it: without its content if its sender has been
// erased (Client-Server API, "Account deactivation").
func (b *builder) unlessErased(v *visit, ev *store.Event) (*store.Event, error) {
	if ev.StateKey != nil || ev.RedactedBy != 0 || ev.Sender.Server() != b.e.Server || b.inLine(v, ev) {
		return ev, nil
	}
	if membership, err := b.membershipAt(v, ev); err != nil || membership == "join" {
		return ev, err
	}
	if b.erased == nil {
		b.erased = history.Erased{}
	}
	return b.erased.Show(b.tx, ev)
}
