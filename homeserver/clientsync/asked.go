package clientsync

import (
	"cmp"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Bounds in bytes of what one answer shows of rooms that the user is invited to, or knocks at.
const (
	// askedLimit is for all of them, askedEach for those by users of one server, or by one user of this server. What goes
	// beyond is told with what tells the room apart, up to askedBrief.
	askedLimit = 2 << 20
	askedEach  = 256 << 10
	askedBrief = 1 << 20
)

// asked is an invite or a knock that is to be told.
type asked struct {
	store.Membership
	behind int // bytes of all from the same that are no larger, itself included
}

// tellAsked tells of the invites and knocks that were found.
func (b *builder) tellAsked() error {
	if len(b.asked) == 0 {
		return nil
	}
	list, err := b.findAsked()
	if err != nil {
		return err
	}
	var whole, rest []store.RoomNID
	size := 0
	for i := range list {
		a := &list[i]
		if size+a.Asked.Bytes > askedLimit || a.behind > askedEach {
			rest = append(rest, a.Room)
			continue
		}
		size += a.Asked.Bytes
		whole = append(whole, a.Room)
	}
	shown, err := b.tx.Memberships.Shown(b.p.user, whole, false)
	if err != nil {
		return err
	}
	brief, err := b.tx.Memberships.Shown(b.p.user, rest, true)
	if err != nil {
		return err
	}
	size = 0
	for i := range list {
		a := &list[i]
		events := shown[a.Room]
		if events == nil {
			events = brief[a.Room]
			if size += len(events); size > askedBrief || len(events) == 0 {
				events = []byte("[]")
			}
		}
		part, name := invitePart, `{"invite_state":{"events":`
		if a.Membership.Membership == "knock" {
			part, name = knockPart, `{"knock_state":{"events":`
		}
		s := &b.parts[part]
		s.member(string(a.RoomID))
		s.buf = append(append(append(s.buf, name...), events...), `}}`...)
	}
	return b.weighIn()
}

// findAsked reads whose the invites and knocks are and how large, in the order in which they are shown whole: everybody's
// smallest come first. Those by whom the user ignores are left out, and those that have been answered meanwhile.
func (b *builder) findAsked() ([]asked, error) {
	known := make(map[store.RoomNID]store.Membership, len(b.asked))
	rooms := make([]store.RoomNID, len(b.asked))
	for i, m := range b.asked {
		known[m.Room], rooms[i] = m, m.Room
	}
	found, err := b.tx.Memberships.Asked(b.p.user, rooms)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(x, y store.Membership) int {
		return cmp.Or(cmp.Compare(x.Asked.Bytes, y.Asked.Bytes), cmp.Compare(x.Room, y.Room))
	})
	sums := map[string]int{}
	out := make([]asked, 0, len(found))
	for _, m := range found {
		k := known[m.Room]
		if k.Event != m.Event {
			continue
		}
		if ignored, err := b.ignoredSender(m); err != nil {
			return nil, err
		} else if ignored {
			continue
		}
		m.RoomID = k.RoomID
		from := b.source(m.Asked.Sender)
		sums[from] += m.Asked.Bytes
		out = append(out, asked{m, sums[from]})
	}
	slices.SortStableFunc(out, func(x, y asked) int { return cmp.Compare(x.behind, y.behind) })
	return out, nil
}

// source is what shares a bound: a server, or a user of this one.
func (b *builder) source(sender id.UserID) string {
	if server := sender.Server(); server != b.p.user.Server() {
		return string(server)
	}
	return string(sender)
}

func (b *builder) ignoredSender(m store.Membership) (bool, error) {
	if len(b.p.ignored) == 0 || m.Membership != "invite" {
		return false, nil
	}
	if m.Asked.Sender != "" {
		return b.p.ignored[m.Asked.Sender], nil
	}
	list, err := b.tx.Events.ByNID(m.Event) // of before the sender was kept
	return err == nil && len(list) > 0 && b.p.ignored[list[0].Sender], err
}
