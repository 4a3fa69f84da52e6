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
	// threadStep is how many are looked at at once.
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
		upto = min(upto, v.upto)
		limit := min(q.Limit, MaxLimit)
		var roots []*store.Event
		more := true
		for page := 0; more && len(roots) < limit && page < maxThreadPages && sizeOf(roots) < maxPageSize; page++ {
			if roots, upto, more, err = v.moreThreads(roots, upto, limit, q.Participated); err != nil {
				return err
			}
		}
		if more {
			out.Next = v.tx.Token(upto)
		}
		forms, err := v.Form(roots)
		out.Chunk = list(forms)
		return err
	})
	return out, err
}

// moreThreads adds threads that were last answered at or before upto, until there are enough. It returns where to go
// on, and whether that makes sense.
func (v *View) moreThreads(roots []*store.Event, upto stream.Position, limit int, participated bool) ([]*store.Event, stream.Position, bool, error) {
	step := min(limit, threadStep) // the first events are read together
	threads, err := v.tx.Relations.Threads(v.room.NID, upto, step+1)
	if err != nil {
		return nil, 0, false, err
	}
	more := len(threads) > step
	threads = threads[:min(len(threads), step)]
	ids := make([]id.EventID, len(threads))
	for i, t := range threads {
		ids[i] = t.Root
	}
	events, err := v.tx.Events.ByID(ids...)
	if err != nil {
		return nil, 0, false, err
	}
	known := make(map[id.EventID]*store.Event, len(events))
	for _, ev := range events {
		known[ev.ID] = ev
	}
	mine := map[id.EventID]bool{}
	if participated {
		if mine, err = v.participated(events); err != nil {
			return nil, 0, false, err
		}
	}
	for _, t := range threads {
		if len(roots) == limit {
			return roots, upto, true, nil
		}
		upto = t.Last - 1
		ev := known[t.Root]
		if ev == nil || participated && !mine[t.Root] {
			continue
		}
		if ev, err = v.threadRoot(ev); err != nil {
			return nil, 0, false, err
		}
		if ev != nil {
			roots = append(roots, ev)
		}
	}
	return roots, upto, more, nil
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
	groups, err := v.tx.Relations.Groups(v.room.NID, ids)
	for _, g := range groups {
		if g.RelType == "m.thread" && g.Sender == v.reader.User {
			out[g.Parent] = true
		}
	}
	return out, err
}
