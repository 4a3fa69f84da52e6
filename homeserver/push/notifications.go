package push

import (
	"cmp"
	"context"
	"encoding/json"
	"math"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// Limits of one look at the notifications of a user.
const (
	maxRoomsSearched  = 200
	maxEventsSearched = 100 // of a room
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
	var floor stream.Position
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		rooms, err := tx.Memberships.ByUser(user, "join")
		if err != nil {
			return err
		}
		// Where there are too many rooms, those joined last are looked at.
		slices.SortFunc(rooms, func(a, b store.Membership) int { return cmp.Compare(b.Position, a.Position) })
		list, floor = nil, 0
		for _, m := range rooms[:min(len(rooms), maxRoomsSearched)] {
			found, reached, err := s.search(tx, m, before, onlyHighlights)
			if err != nil {
				return err
			}
			list = append(list, found...)
			floor = max(floor, reached)
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	// Below the floor there may be events of some room that have not been looked at.
	list = slices.DeleteFunc(list, func(n Notification) bool { return n.Position < floor })
	slices.SortFunc(list, func(a, b Notification) int { return cmp.Compare(b.Position, a.Position) })
	if len(list) > limit {
		list = list[:limit]
		return list, list[limit-1].Position, nil
	}
	return list, floor, nil
}

// search looks at the newest events of a room before a position, since the user joined. It also tells
// how far it got, 0 if it looked at all.
func (s *Service) search(tx *store.Tx, m store.Membership, before stream.Position, onlyHighlights bool) ([]Notification, stream.Position, error) {
	joined, err := joinedAt(tx, m)
	if err != nil {
		return nil, 0, err
	}
	events, err := tx.Events.Range(m.Room, joined, before-1, maxEventsSearched, true)
	if err != nil || len(events) == 0 {
		return nil, 0, err
	}
	rules, err := s.Rules(tx, m.User)
	if err != nil {
		return nil, 0, err
	}
	room, err := OpenRoom(tx, m.Room)
	if err != nil {
		return nil, 0, err
	}
	receipts, err := tx.Receipts.ByUser(m.Room, m.User)
	if err != nil {
		return nil, 0, err
	}
	var name string
	if rules.WantsDisplayName() {
		name = room.DisplayName(m.User)
	}
	var found []Notification
	for _, e := range events {
		o := rules.Evaluate(room.Message(e.Event), name)
		if o.Notify && (o.Highlight || !onlyHighlights) {
			found = append(found, Notification{e.Position, m.RoomID, o.Actions, e, read(e, receipts)})
		}
	}
	if len(events) < maxEventsSearched {
		return found, 0, nil
	}
	return found, events[len(events)-1].Position, nil
}

// joinedAt is where a user joined a room that they are joined to, whatever became of their profile since.
func joinedAt(tx *store.Tx, m store.Membership) (stream.Position, error) {
	history, err := tx.Memberships.History(m.Room, m.User)
	if err != nil {
		return 0, err
	}
	for _, c := range slices.Backward(history) {
		if c.Membership == "join" && c.Former != "join" {
			return c.Position, nil
		}
	}
	return m.Position, nil
}

// read says whether one of a user's receipts is at an event or after it, in its thread or in all of them.
func read(e *store.Event, receipts []store.Receipt) bool {
	thread := threadOf(e)
	return slices.ContainsFunc(receipts, func(r store.Receipt) bool {
		return r.EventAt >= e.Position && (r.Thread == "" || r.Thread == thread)
	})
}

// threadOf is the thread that an event is in, as receipts name it.
func threadOf(e *store.Event) string {
	var content struct {
		Relation struct {
			Type  string `json:"rel_type"`
			Event string `json:"event_id"`
		} `json:"m.relates_to"`
	}
	if json.Unmarshal(e.Content, &content) == nil && content.Relation.Type == "m.thread" {
		return content.Relation.Event
	}
	return "main"
}
