package timeline

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

const (
	// maxRecursion is how far relations of relations are followed.
	maxRecursion = 3
	// maxRelated is how many events are found in that way at most.
	maxRelated = 1000
)

// Relations says which of the events that relate to another are wanted.
type Relations struct {
	Parent        id.EventID
	RelType, Type string // empty: any
	From, To      string // tokens
	Forwards      bool   // oldest first
	Recurse       bool   // also what relates to what relates to the event
	Limit         int
}

// Related are events that relate to another.
type Related struct {
	Chunk []json.RawMessage `json:"chunk"`
	Next  string            `json:"next_batch,omitempty"`
	Prev  string            `json:"prev_batch,omitempty"`
	Depth int               `json:"recursion_depth,omitempty"`
}

// Relations lists what relates to an event (GET /rooms/{roomId}/relations/{eventId}). Errors: ErrNotFound if the
// reader cannot see the event, stream.ErrBadToken.
func (s *Service) Relations(ctx context.Context, roomID id.RoomID, r Reader, q Relations) (*Related, error) {
	out := &Related{Prev: q.From}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		v, err := find(tx, roomID, r)
		if err != nil {
			return err
		}
		if _, err := v.eventByID(q.Parent); err != nil {
			return err
		}
		from, to, err := v.bounds(&q)
		if err != nil {
			return err
		}
		found, err := v.related(q, from, to)
		if err != nil {
			return err
		}
		events, n, err := v.relatedEvents(found, min(q.Limit, MaxLimit))
		if err != nil {
			return err
		}
		if len(found) > n {
			out.Next = v.tx.Token(after(found[:n], from, to, q.Forwards))
		}
		if q.Recurse {
			out.Depth = maxRecursion
		}
		forms, err := v.Form(events)
		out.Chunk = list(forms)
		return err
	})
	return out, err
}

// bounds are where the answer lies: from < p < to.
func (v *View) bounds(q *Relations) (from, to stream.Position, err error) {
	start, end := q.From, q.To
	if !q.Forwards {
		start, end = end, start
	}
	if from, err = position(v.tx, start, first); err != nil {
		return 0, 0, err
	}
	to, err = position(v.tx, end, v.upto)
	return from, min(to, v.upto) + 1, err
}

// after is the position behind a page of relations.
func after(page []store.Relation, from, to stream.Position, forwards bool) stream.Position {
	switch {
	case len(page) == 0 && forwards:
		return from
	case len(page) == 0:
		return to - 1
	case forwards:
		return page[len(page)-1].Position
	default:
		return page[len(page)-1].Position - 1
	}
}

// related finds relations in from < p < to in order, one more than the limit if there are more.
func (v *View) related(q Relations, from, to stream.Position) ([]store.Relation, error) {
	if !q.Recurse {
		return v.tx.Relations.Children(v.room.NID, q.Parent, q.RelType, q.Type, from, to, min(q.Limit, MaxLimit)+1, !q.Forwards)
	}
	level := []id.EventID{q.Parent}
	seen := map[id.EventID]bool{q.Parent: true}
	var found []store.Relation
	for depth := 0; depth < maxRecursion && len(level) > 0 && len(found) < maxRelated; depth++ {
		children, err := v.tx.Relations.ChildrenOf(v.room.NID, level, q.RelType, q.Type, maxRelated-len(found))
		if err != nil {
			return nil, err
		}
		level = nil
		for _, c := range children {
			if !seen[c.ID] {
				seen[c.ID] = true
				level = append(level, c.ID)
				found = append(found, c.Relation)
			}
		}
	}
	found = slices.DeleteFunc(found, func(r store.Relation) bool { return r.Position <= from || r.Position >= to })
	slices.SortFunc(found, func(a, b store.Relation) int {
		if q.Forwards {
			return cmp.Compare(a.Position, b.Position)
		}
		return cmp.Compare(b.Position, a.Position)
	})
	return found, nil
}

// relatedEvents reads the events of the first relations that the reader may see, at most limit and as many as fit on a page,
// and says how many relations that were. Those that the reader may not see take their room as well.
func (v *View) relatedEvents(relations []store.Relation, limit int) (out []*store.Event, n int, err error) {
	const step = 20
	relations = relations[:min(len(relations), limit)]
	for size := 0; n < len(relations) && size < maxPageSize; {
		some := relations[n:min(n+step, len(relations))]
		nids := make([]store.EventNID, len(some))
		for i, r := range some {
			nids[i] = r.Event
		}
		events, err := v.tx.Events.ByNID(nids...)
		if err != nil {
			return nil, 0, err
		}
		seen, sizes, err := v.seeAndWeigh(events, func(*store.Event) bool { return true })
		if err != nil {
			return nil, 0, err
		}
		for i := range events {
			if size >= maxPageSize {
				return out, n + i, nil
			}
			if seen[i] != nil {
				out = append(out, seen[i])
			}
			size += max(sizes[i], len(events[i].JSON))
		}
		n += len(some)
	}
	return out, n, nil
}
