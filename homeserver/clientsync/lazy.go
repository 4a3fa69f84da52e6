package clientsync

import (
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Limits of what is remembered of the members that a device has been told of.
const (
	maxSentRooms   = 1000
	maxSentMembers = 2000
)

// startLazy forgets which members a device has been told of if it does not go on from the last answer: that answer
// may have been lost.
func (b *builder) startLazy() {
	d := b.device
	if b.r.Since == nil || b.r.Since.Position != d.next.Position || len(d.sent) > maxSentRooms {
		clear(d.sent)
	}
	d.next = b.next
}

// lazy says whether the client is told of members as it needs them.
func (b *builder) lazy() bool {
	return b.f.Room.State.LazyLoadMembers || b.f.Room.Timeline.LazyLoadMembers
}

// redundant says whether it is told of them again in a room.
func (b *builder) redundant(v *visit) bool {
	return b.f.Room.State.IncludeRedundantMembers || b.f.Room.Timeline.IncludeRedundantMembers || v.fresh
}

// membersNeeded finds the members that a client has to know to show a timeline (Client-Server API, "Lazy-loading room members").
func (b *builder) membersNeeded(v *visit, t *timeline, n *stateNeeded) error {
	all := b.redundant(v)
	sent := b.device.sent[v.roomID]
	for _, ev := range t.events {
		if _, known := sent[ev.Sender]; all || !known {
			n.want(ev.Sender)
		}
	}
	if v.fresh {
		n.want(b.p.user)
	}
	if !v.summarized(t) {
		return nil
	}
	summary, err := b.summary(v)
	if err != nil {
		return err
	}
	for _, u := range summary.heroes {
		if _, known := sent[u]; all || !known {
			n.want(u)
		}
	}
	return nil
}

func (n *stateNeeded) want(user id.UserID) {
	if n.need == nil {
		n.need = map[id.UserID]bool{}
	}
	n.need[user] = true
}

// remember notes which members the device is told of.
func (b *builder) remember(v *visit, t *timeline, n *stateNeeded) {
	if !b.lazy() {
		return
	}
	if v.fresh {
		delete(b.device.sent, v.roomID)
	}
	note := func(ev *store.Event) {
		sent := b.device.sent[v.roomID]
		if sent == nil || len(sent) >= maxSentMembers {
			sent = map[id.UserID]store.EventNID{}
			b.device.sent[v.roomID] = sent
		}
		sent[id.UserID(*ev.StateKey)] = ev.NID
	}
	if n != nil {
		for _, ev := range n.found {
			note(ev)
		}
	}
	for _, ev := range t.events {
		if ev.Type == event.TypeMember && ev.StateKey != nil {
			note(ev)
		}
	}
}
