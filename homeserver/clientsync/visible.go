package clientsync

import (
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
	history "github.com/securecomm/securecomm/homeserver/timeline"
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
	list, err := b.tx.Memberships.History(v.room, b.p.user)
	if err != nil {
		return err
	}
	v.spans = &spans{list}
	return nil
}

// membershipAt is the user's membership when an event happened.
func (v *visit) membershipAt(ev *store.Event) string {
	if v.spans == nil {
		return "join" // all the time
	}
	return v.spans.at(ev.Position)
}

// visible says whether the user may see an event (Client-Server API, "Room History Visibility").
func (b *builder) visible(v *visit, ev *store.Event) (bool, error) {
	if ev.StateKeyIs(event.TypeMember, string(b.p.user)) {
		return true, nil
	}
	membership := v.spans.at(ev.Position)
	if membership == "join" {
		return true, nil
	}
	if v.never {
		return false, nil
	}
	visibility, err := b.visibility(ev)
	if err != nil {
		return false, err
	}
	if b.mayRead(v, ev, membership, visibility) {
		return true, nil
	}
	// An event that changes the visibility is shown under the laxer one.
	return ev.StateKeyIs(event.TypeHistoryVisibility, "") && b.mayRead(v, ev, membership, event.HistoryVisibility(ev.Content)), nil
}

func (b *builder) mayRead(v *visit, ev *store.Event, membership, visibility string) bool {
	switch visibility {
	case "world_readable":
		return true
	case "joined":
		return false
	case "invited":
		return membership == "invite"
	default:
		return v.spans.joinsAfter(ev.Position)
	}
}

// visibility is the history visibility before an event.
func (b *builder) visibility(ev *store.Event) (string, error) {
	if known, ok := b.seen[ev.StateBefore]; ok {
		return known, nil
	}
	m, err := b.tx.States.Map(ev.StateBefore)
	if err != nil {
		return "", err
	}
	now, err := b.tx.States.Event(m, event.StateKeyTuple{Type: event.TypeHistoryVisibility})
	if err != nil {
		return "", err
	}
	out := "shared"
	if now != nil {
		out = event.HistoryVisibility(now.Content)
	}
	if b.seen == nil {
		b.seen = map[store.StateNID]string{}
	}
	b.seen[ev.StateBefore] = out
	return out, nil
}

// unlessErased is an event as who was not in the room at the time may see it: without its content if its sender has been
// erased (Client-Server API, "Account deactivation").
func (b *builder) unlessErased(v *visit, ev *store.Event) (*store.Event, error) {
	if ev.StateKey != nil || ev.RedactedBy != 0 || ev.Sender.Server() != b.e.Server || v.spans.at(ev.Position) == "join" {
		return ev, nil
	}
	if b.erased == nil {
		b.erased = history.Erased{}
	}
	return b.erased.Show(b.tx, ev)
}
