package timeline

import (
	"context"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

const (
	// maxThreadPages is how often more threads are looked at for a page.
	maxThreadPages = 100
	// threadStep is how many are looked at at once. Their first events have no more than scannedSize bytes in all.
	threadStep = 50
)

// sizeOf is how many bytes events have.
func sizeOf(events []*store.Event) (n int) {
	for _, ev := range events {
		n += len(ev.JSON)
	}
	return n
}

// ThreadQuery says which threads of a room are wanted.
type ThreadQuery struct {
	From         string // a token
	Participated bool   // only those that the reader took part in
	Limit        int
}

// Threads lists the first events of a room's threads, the last answered first (GET /rooms/{roomId}/threads). Errors:
// ErrForbidden, stream.ErrBadToken.
func (s *Service) Threads(ctx context.Context, roomID id.RoomID, r Reader, q ThreadQuery) (*Related, error) {
	out := &Related{}
	err := s.view(ctx, roomID, r, func(v *View) error {
		upto, err := position(v.tx, q.From, v.upto)
		if err != nil {
			return err
		}
		p := &threads{ThreadQuery: q, upto: min(upto, v.upto), more: true}
		p.Limit = min(p.Limit, MaxLimit)
		for page := 0; p.more && !p.full() && page < maxThreadPages && p.looked < scannedSize; page++ {
			if err := v.moreThreads(p); err != nil {
				return err
			}
		}
		if p.more {
			out.Next = v.tx.Token(p.upto)
		}
		forms, err := v.Form(p.roots)
		out.Chunk = list(forms)
		return err
	})
	return out, err
}

// threads is a page of them while it is made.
type threads struct {
	ThreadQuery
	upto   stream.Position // where to go on
	more   bool            // whether that makes sense
	roots  []*store.Event
	size   int // of the first events and what is told with them, in bytes
	looked int // bytes of events that were looked at
}

func (p *threads) full() bool { return len(p.roots) >= p.Limit || p.size >= maxPageSize }

// moreThreads adds threads that were last answered at or before upto, until there are enough.
func (v *View) moreThreads(p *threads) error {
	step := min(p.Limit, threadStep) // the first events are read together
	found, err := v.tx.Relations.Threads(v.room.NID, p.upto, step+1)
	if err != nil {
		return err
	}
	p.more = len(found) > step
	found = found[:min(len(found), step)]
	ids := make([]id.EventID, len(found))
	for i, t := range found {
		ids[i] = t.Root
	}
	events, err := v.tx.Events.ByID(ids...)
	if err != nil {
		return err
	}
	p.looked += sizeOf(events)
	roots, sizes, err := v.threadRoots(events, p.Participated)
	if err != nil {
		return err
	}
	for _, t := range found {
		if p.full() {
			p.more = true
			return nil
		}
		p.upto = t.Last - 1
		if root := roots[t.Root]; root != nil {
			p.roots = append(p.roots, root)
			p.size += sizes[t.Root]
		}
	}
	return nil
}

// threadRoots are those of the first events of threads that the reader may see, and took part in if participated, and how many
// bytes they add to an answer.
func (v *View) threadRoots(events []*store.Event, participated bool) (map[id.EventID]*store.Event, map[id.EventID]int, error) {
	var mine map[id.EventID]bool
	var err error
	if participated {
		if mine, err = v.participated(events); err != nil {
			return nil, nil, err
		}
	}
	roots, sizes := map[id.EventID]*store.Event{}, map[id.EventID]int{}
	var shown []*store.Event
	for _, ev := range events {
		if participated && !mine[ev.ID] {
			continue
		}
		root, err := v.threadRoot(ev)
		if err != nil {
			return nil, nil, err
		}
		if root != nil {
			shown = append(shown, root)
		}
	}
	weights, err := v.weigh(shown, style{})
	for i, root := range shown {
		roots[root.ID], sizes[root.ID] = root, weights[i]
	}
	return roots, sizes, err
}

// threadRoot is the first event of a thread as the reader may see it, redacted if it is of someone ignored; nil if not at all.
func (v *View) threadRoot(ev *store.Event) (*store.Event, error) {
	if visible, err := v.Visible(ev); err != nil || !visible {
		return nil, err
	}
	if ignored, err := v.ignores(ev.Sender); err != nil {
		return nil, err
	} else if ignored {
		return redacted(ev)
	}
	return v.unlessErased(ev)
}

// participated says which threads the reader wrote in.
func (v *View) participated(roots []*store.Event) (map[id.EventID]bool, error) {
	out := map[id.EventID]bool{}
	ids := make([]id.EventID, len(roots))
	for i, ev := range roots {
		ids[i] = ev.ID
		out[ev.ID] = ev.Sender == v.reader.User
	}
	answered, err := v.tx.Relations.Answered(v.room.NID, ids, []id.UserID{v.reader.User})
	for _, a := range answered {
		out[a.Root] = true
	}
	return out, err
}
