package timeline

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

const (
	// scanned is how many events are looked at for one stretch of a room at most.
	scanned = 5000
	// maxPageSize is how many bytes a page holds of events and what is told with them, but for what is bundled: once they are
	// reached, no further event is taken.
	maxPageSize = 1 << 20
	// scannedSize is how many bytes of events are looked at for one stretch: the event by which it is reached is the last.
	scannedSize = 16 << 20
	// maxScans and maxScansSize bound what is looked at for one answer: both sides of an event, what stands around a hundred
	// results, or a page and what was fetched to fill it.
	maxScans     = 2 * scanned
	maxScansSize = 2 * scannedSize
	// leastBatch is how many bytes of events are read at once, if a page has not room for more.
	leastBatch = 256 << 10
	// maxFetches is how often older history is fetched from other servers for one page, and fetchingTime how long that takes
	// in all.
	maxFetches   = 3
	fetchingTime = 30 * time.Second
)

// Page says which part of a room's history is wanted.
type Page struct {
	From, To  string // tokens; empty: from one end, to the other
	Backwards bool
	Limit     int
	Filter    *filter.RoomEvents // nil: everything
}

// Messages is a part of a room's history.
type Messages struct {
	Start string            `json:"start"`
	End   string            `json:"end,omitempty"` // empty: there is no more; to the newer end, not yet
	Chunk []json.RawMessage `json:"chunk"`
	State []json.RawMessage `json:"state,omitempty"`
}

// reading is how far a page has come.
type reading struct {
	backwards bool
	cursor    stream.Position // what is at or before it, or backwards behind it, was read
	edge      stream.Position // where to stop: the other end of the range
	limit     int
	size      int // of the events and what is told with them, in bytes
	most      int // how large they may get: the event by which that is reached is the last; 0: maxPageSize
	stretches int // how many are still to be read for the answer, this one among them; 0: this one alone
	pass      func(*store.Event) bool
	members   map[store.EventNID]bool // those of the senders, who are told with the events; nil if they are not
	events    []*store.Event
	done      bool // nothing is left here between cursor and edge
	oldest    bool // nothing is older: the beginning of the room was read, or other servers have no more
}

// wantsOlder says whether other servers have to be asked for what this page lacks.
func (at *reading) wantsOlder() bool { return at.endsHere() && !at.full() }

func (at *reading) full() bool { return len(at.events) >= at.limit || at.size >= at.room() }

func (at *reading) room() int {
	if at.most > 0 {
		return at.most
	}
	return maxPageSize
}

// endsHere says whether only other servers can tell how the history goes on.
func (at *reading) endsHere() bool {
	return at.backwards && at.done && !at.oldest && at.edge == first
}

// Messages reads a part of a room's history (GET /rooms/{roomId}/messages). If it ends where this server knows
// no more, the rest is fetched from others. Errors: ErrForbidden, stream.ErrBadToken.
func (s *Service) Messages(ctx context.Context, roomID id.RoomID, r Reader, p Page) (*Messages, error) {
	out, at, budget := &Messages{}, (*reading)(nil), &Budget{}
	err := s.view(ctx, roomID, r, func(v *View) (err error) {
		v.budget = budget
		if at, out.Start, err = v.open(p); err != nil {
			return err
		}
		if err = v.read(at); err != nil || at.wantsOlder() && s.Backfill != nil {
			return err
		}
		return v.encodePage(out, at.events, p.Filter)
	})
	if err != nil {
		return nil, err
	}
	if out.Chunk == nil {
		if err := s.readOlder(ctx, roomID, r, at, budget); err != nil {
			return nil, err
		}
		err := s.view(ctx, roomID, r, func(v *View) error {
			v.budget = budget
			return v.encodePage(out, at.events, p.Filter)
		})
		if err != nil {
			return nil, err
		}
	}
	// The newer end of a room is none for good: who has read up to it goes on from there when there is more.
	live := !p.Backwards && p.To == "" && len(at.events) > 0
	if !at.done || live || at.endsHere() && s.Backfill != nil {
		out.End = s.Store.Hub.Token(at.cursor).String()
	}
	return out, nil
}

// readOlder goes on reading in what other servers send.
func (s *Service) readOlder(ctx context.Context, roomID id.RoomID, r Reader, at *reading, budget *Budget) error {
	fetching, cancel := context.WithTimeout(ctx, fetchingTime)
	defer cancel()
	for fetches := 0; at.wantsOlder() && fetches < maxFetches; fetches++ {
		n, err := s.Backfill(fetching, roomID, at.limit-len(at.events))
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			// A server that does not answer must not make what is here unreadable. Others may answer when the client asks once more.
			s.Log.Info("cannot fetch older history", "room", roomID, "err", err)
			return nil
		case n == 0:
			at.oldest = true
			return nil
		}
		at.done = false
		err = s.view(ctx, roomID, r, func(v *View) error {
			v.budget = budget
			return v.read(at)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// open finds where a page begins and ends.
func (v *View) open(p Page) (*reading, string, error) {
	at := &reading{backwards: p.Backwards, limit: min(p.Limit, MaxLimit), pass: passes(v.room.ID, p.Filter)}
	if p.Filter != nil && p.Filter.LazyLoadMembers {
		at.members = map[store.EventNID]bool{}
	}
	start, edge := last, first
	if !p.Backwards {
		start, edge = first, last
	}
	var err error
	if at.cursor, err = position(v.tx, p.From, start); err != nil {
		return nil, "", err
	}
	if at.edge, err = position(v.tx, p.To, edge); err != nil {
		return nil, "", err
	}
	shown := p.From
	if p.From == "" {
		if at.cursor, err = v.end(p.Backwards); err != nil {
			return nil, "", err
		}
		shown = v.tx.Token(at.cursor)
	}
	if p.Backwards {
		at.cursor = min(at.cursor, v.upto)
	} else {
		at.edge = min(at.edge, v.upto)
	}
	return at, shown, nil
}

// end is the newest or the oldest end of what is here of the room's history.
func (v *View) end(newest bool) (stream.Position, error) {
	if newest {
		return v.tx.Position()
	}
	oldest, err := v.tx.Events.Range(v.room.NID, first, last, 1, false)
	if err != nil || len(oldest) == 0 {
		return 0, err
	}
	return oldest[0].Position - 1, nil
}

// passes is a filter as a function.
func passes(room id.RoomID, f *filter.RoomEvents) func(*store.Event) bool {
	if f == nil || f.Unrestricted() {
		return func(*store.Event) bool { return true }
	}
	if !f.AllowsRoom(room) {
		return func(*store.Event) bool { return false }
	}
	return func(ev *store.Event) bool { return f.Allows(ev.Type, ev.Sender) && f.AllowsContent(ev.Content) }
}

// read goes on until the page is full, nothing is left, or enough was looked at.
func (v *View) read(at *reading) error {
	for events, size := v.budget.share(at.stretches); !at.full() && !at.done && events > 0 && size > 0; {
		want := min(max(at.limit-len(at.events), 20), 200, events)
		from, to := at.cursor, at.edge
		if at.backwards {
			from, to = at.edge, at.cursor
		}
		batch, more, err := v.tx.Events.RangeWithin(v.room.NID, from, to, want, min(max(at.room(), leastBatch), size), at.backwards)
		if err != nil {
			return err
		}
		n := sizeOf(batch)
		v.budget.look(len(batch), n)
		events, size = events-len(batch), size-n
		at.done = !more
		if err := v.take(at, batch); err != nil {
			return err
		}
	}
	return nil
}

// take moves past events until the page is full, and keeps those that belong to it.
func (v *View) take(at *reading, batch []*store.Event) error {
	kept, sizes, err := v.seeAndWeigh(batch, at.pass)
	if err != nil {
		return err
	}
	if err := v.weighSenders(at, kept, sizes); err != nil {
		return err
	}
	for i, ev := range batch {
		if at.full() {
			at.done = false
			return nil
		}
		if at.cursor = ev.Position; at.backwards {
			at.cursor--
			if ev.StateKeyIs(event.TypeCreate, "") {
				at.oldest, at.done = true, true
			}
		}
		if kept[i] != nil {
			at.events = append(at.events, kept[i])
			at.size += sizes[i]
		}
	}
	return nil
}

// weighSenders adds to the sizes of events those of their senders' member events that are told with the first of them.
func (v *View) weighSenders(at *reading, events []*store.Event, sizes []int) error {
	if at.members == nil {
		return nil
	}
	var nids []store.EventNID
	with := map[store.EventNID]int{}
	for i, ev := range events {
		if ev == nil {
			continue
		}
		nid, err := v.senderOf(ev)
		if err != nil {
			return err
		}
		if nid != 0 && !at.members[nid] {
			at.members[nid], with[nid] = true, i
			nids = append(nids, nid)
		}
	}
	members, err := v.tx.Events.Sizes(nids)
	for nid, size := range members {
		sizes[with[nid]] += size.Event + size.Redaction
	}
	return err
}

// senderOf is the number of the member event of an event's sender behind the event; 0 if there is none.
func (v *View) senderOf(ev *store.Event) (store.EventNID, error) {
	if ev.StateKeyIs(event.TypeMember, string(ev.Sender)) {
		return ev.NID, nil
	}
	state, err := v.tx.States.Map(ev.StateBefore)
	if err != nil {
		return 0, err
	}
	key, err := v.tx.States.FindKey(event.StateKeyTuple{Type: event.TypeMember, StateKey: string(ev.Sender)})
	if err != nil || key == 0 {
		return 0, err
	}
	return state.Get(key), nil
}

func (v *View) encodePage(out *Messages, events []*store.Event, f *filter.RoomEvents) error {
	chunk, err := v.Form(events)
	if err != nil {
		return err
	}
	out.Chunk = list(chunk)
	if f == nil || !f.LazyLoadMembers {
		return nil
	}
	out.State, err = v.senders(events)
	return err
}

// senders encodes the members who sent some events, each as of the newest of them (Client-Server API, "Lazy-loading
// room members").
func (v *View) senders(events []*store.Event) ([]json.RawMessage, error) {
	newest := map[id.UserID]*store.Event{}
	var order []id.UserID
	for _, ev := range events {
		known := newest[ev.Sender]
		if known == nil {
			order = append(order, ev.Sender)
		}
		if known == nil || ev.Position > known.Position {
			newest[ev.Sender] = ev
		}
	}
	var nids []store.EventNID
	for _, user := range order {
		nid, err := v.senderOf(newest[user])
		if err != nil {
			return nil, err
		}
		if nid != 0 {
			nids = append(nids, nid)
		}
	}
	members, err := v.tx.Events.ByNID(nids...)
	if err != nil {
		return nil, err
	}
	return v.formState(members)
}

// Event reads one event (GET /rooms/{roomId}/event/{eventId}). Error: ErrNotFound, also if the reader may not see it.
func (s *Service) Event(ctx context.Context, roomID id.RoomID, r Reader, eventID id.EventID) (out json.RawMessage, err error) {
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		v, err := find(tx, roomID, r)
		if err != nil {
			return err
		}
		ev, err := v.eventByID(eventID)
		if err != nil {
			return err
		}
		forms, err := v.Form([]*store.Event{ev})
		if err == nil {
			out = forms[0]
		}
		return err
	})
	return out, err
}

// eventByID finds an event that the reader may see: one of the history, or of the current state that came with a
// join. v may be nil.
func (v *View) eventByID(eventID id.EventID) (*store.Event, error) {
	notFound := fmt.Errorf("%w: event %s", ErrNotFound, eventID)
	if v == nil {
		return nil, notFound
	}
	ev, err := v.tx.Events.Get(eventID)
	if err != nil {
		return nil, err
	}
	if ev == nil || ev.Room != v.room.NID {
		return nil, notFound
	}
	if ev.Outlier() && ev.StateKey != nil && v.inside && !ev.Rejected {
		key, err := v.tx.States.FindKey(ev.Tuple())
		if err != nil || v.state.Get(key) == ev.NID {
			return ev, err
		}
	}
	visible, err := v.Visible(ev)
	if err == nil && !visible {
		err = notFound
	}
	if err != nil {
		return nil, err
	}
	return v.unlessErased(ev)
}
