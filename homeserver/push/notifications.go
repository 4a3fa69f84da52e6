package push

import (
	"cmp"
	"context"
	"encoding/json"
	"math"
	"slices"

	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/pushrule"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
	"github.com/securecomm/securecomm/homeserver/visibility"
)

// Limits of one look at the notifications of a user.
const (
	maxRoomsSearched  = 200
	maxEventsSearched = 4000 // in all rooms, each of which gets its share
	maxOfRoom         = 100
	maxBytesSearched  = 8 << 20 // in all rooms, each of which gets its share
	maxPage           = 2 << 20 // bytes of events on a page: the event by which it is reached is the last
	// searchWork is what the user's own rules may cost.
	searchWork = 256 * pushrule.MaxWork
)

// Notification is an event that a user was notified of.
type Notification struct {
	Position stream.Position
	Room     id.RoomID
	Actions  json.RawMessage
	Event    *store.Event
	Read     bool
}

// Notifications finds the newest events before a position, 0 for the end of the log, that a user was notified of,
// going by what the rules say today. Next is where to go on, 0 if there is nothing more; a page may be
// short or empty although there is more.
func (s *Service) Notifications(ctx context.Context, user id.UserID, before stream.Position, limit int, onlyHighlights bool) (list []Notification, next stream.Position, err error) {
	if before <= 0 {
		before = math.MaxInt64
	}
	look := &looking{user: user, before: before}
	err = s.Store.View(ctx, func(tx *store.Tx) error { return s.gather(tx, look) })
	if err != nil {
		return nil, 0, err
	}
	// Rules are users' own: nobody waits for them, and for the snapshot, but the user.
	if list, err = look.judge(ctx, onlyHighlights); err != nil {
		return nil, 0, err
	}
	// Below the floor there may be events of some room that have not been looked at.
	list = slices.DeleteFunc(list, func(n Notification) bool { return n.Position < look.floor })
	slices.SortFunc(list, func(a, b Notification) int { return cmp.Compare(b.Position, a.Position) })
	if n := page(list, limit); n < len(list) {
		return list[:n], list[n-1].Position, nil
	}
	return list, look.floor, nil
}

// page is how many notifications fit on a page.
func page(list []Notification, limit int) int {
	size := 0
	for i := range list {
		if i >= limit || size >= maxPage {
			return i
		}
		size += len(list[i].Event.JSON)
	}
	return len(list)
}

// looking is one look at the notifications of a user.
type looking struct {
	user    id.UserID
	before  stream.Position
	rules   *pushrule.Rules
	ignored map[id.UserID]bool
	floor   stream.Position
	found   []candidate
}

// candidate is an event that the rules have to be asked about.
type candidate struct {
	Notification
	message *pushrule.Message
	name    string
}

// gather reads the newest events of the user's rooms.
func (s *Service) gather(tx *store.Tx, look *looking) (err error) {
	look.found, look.floor = nil, 0
	if look.rules, err = s.Rules(tx, look.user); err != nil {
		return err
	}
	ignored, _, err := tx.AccountData.Get(look.user, "", visibility.IgnoredType)
	if err != nil {
		return err
	}
	look.ignored = visibility.Ignored(look.user, ignored)
	rooms, err := tx.Memberships.ByUser(look.user, "join")
	if err != nil {
		return err
	}
	// Where there are too many rooms, those joined last are looked at.
	slices.SortFunc(rooms, func(a, b store.Membership) int { return cmp.Compare(b.Position, a.Position) })
	rooms = rooms[:min(len(rooms), maxRoomsSearched)]
	for _, m := range rooms {
		reached, err := look.in(tx, m, min(maxEventsSearched/len(rooms), maxOfRoom), maxBytesSearched/len(rooms))
		if err != nil {
			return err
		}
		look.floor = max(look.floor, reached)
	}
	return nil
}

// in looks at the newest events of a room that came since the user joined and that the user may see. It tells how far it got,
// 0 if it looked at all.
func (l *looking) in(tx *store.Tx, m store.Membership, limit, size int) (reached stream.Position, err error) {
	sight, err := visibility.Look(tx, m.Room, m.User)
	if err != nil {
		return 0, err
	}
	changes, err := sight.Changes()
	if err != nil {
		return 0, err
	}
	events, more, err := tx.Events.RangeWithin(m.Room, joinedAt(changes, m), l.before-1, limit, size, true)
	if err != nil || len(events) == 0 {
		return 0, err
	}
	if more {
		reached = events[len(events)-1].Position
	}
	if events, err = l.seen(sight, events); err != nil || len(events) == 0 {
		return reached, err
	}
	room, err := OpenRoom(tx, m.Room)
	if err != nil {
		return 0, err
	}
	receipts, err := tx.Receipts.ByUser(m.Room, m.User)
	if err != nil {
		return 0, err
	}
	var name string
	if l.rules.WantsDisplayName() {
		if name, err = room.DisplayName(m.User); err != nil {
			return 0, err
		}
	}
	threads, err := ephemeral.ThreadsOf(tx, events)
	if err != nil {
		return 0, err
	}
	for _, e := range events {
		n := Notification{Position: e.Position, Room: m.RoomID, Event: e, Read: read(e, threads[e.NID], receipts)}
		l.found = append(l.found, candidate{n, room.Message(e.Event), name})
	}
	return reached, nil
}

// seen leaves those events that the user may see, and not of users whom they ignore.
func (l *looking) seen(sight *visibility.Reader, events []*store.Event) (out []*store.Event, err error) {
	if err := sight.Gather(events); err != nil {
		return nil, err
	}
	for _, e := range events {
		visible, err := sight.Visible(e)
		if err != nil {
			return nil, err
		}
		if visible && !l.ignored[e.Sender] {
			out = append(out, e)
		}
	}
	return out, nil
}

// judge asks the rules which of the events the user was notified of.
func (l *looking) judge(ctx context.Context, onlyHighlights bool) ([]Notification, error) {
	var list []Notification
	work := searchWork
	for i := range l.found {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c := &l.found[i]
		o := l.rules.Evaluate(c.message, c.name, &work)
		if o.Notify && (o.Highlight || !onlyHighlights) {
			c.Actions = o.Actions
			list = append(list, c.Notification)
		}
		c.message = nil // and what was decoded of it
	}
	return list, nil
}

// joinedAt is where a user joined a room that they are joined to, whatever became of their profile since.
func joinedAt(changes []store.MembershipChange, m store.Membership) stream.Position {
	for _, c := range slices.Backward(changes) {
		if c.Membership == "join" && c.Former != "join" {
			return c.Position
		}
	}
	return m.Position
}

// read says whether one of a user's receipts is at an event or after it, in its thread or in all of them.
func read(e *store.Event, thread string, receipts []store.Receipt) bool {
	return slices.ContainsFunc(receipts, func(r store.Receipt) bool {
		return r.EventAt >= e.Position && (r.Thread == "" || r.Thread == thread)
	})
}
