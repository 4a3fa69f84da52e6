package timeline

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

const (
	// scanned is how many events are looked at for one page at most.
	scanned = 5000
	// maxFetches is how often older history is fetched from other servers for one page.
	maxFetches = 3
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
	End   string            `json:"end,omitempty"` // empty: there is no more
	Chunk []json.RawMessage `json:"chunk"`
	State []json.RawMessage `json:"state,omitempty"`
}

// reading is how far a page has come.
type reading struct {
	backwards bool
	from, to  stream.Position // what is left to read: from < p <= to
	limit     int
	pass      func(*store.Event) bool
	events    []*store.Event
	done      bool // nothing is left between from and to
	oldest    bool // the beginning of the room was read
}

// Messages reads a part of a room's history (GET /rooms/{roomId}/messages). If it ends where this server knows
// no more, the rest is fetched from others. Errors: ErrForbidden, stream.ErrBadToken.
func (s *Service) Messages(ctx context.Context, roomID id.RoomID, r Reader, p Page) (*Messages, error) {
	out := &Messages{}
	var at *reading
	more := false // whether other servers may have more
	for fetches := 0; ; fetches++ {
		err := s.view(ctx, roomID, r, func(v *View) (err error) {
			if at == nil {
				if at, out.Start, err = v.open(p); err != nil {
					return err
				}
			}
			if err := v.read(at); err != nil {
				return err
			}
			more = at.backwards && at.done && !at.oldest && p.To == ""
			if more && len(at.events) < at.limit && s.Backfill != nil && fetches < maxFetches {
				return nil
			}
			return v.encodePage(out, at.events, p)
		})
		if err != nil {
			return nil, err
		}
		if out.Chunk != nil {
			break
		}
		// A server that does not answer must not make the history that is here unreadable.
		n, err := s.Backfill(ctx, roomID, at.limit-len(at.events))
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if n == 0 {
			more, fetches = err != nil && len(at.events) > 0, maxFetches
		}
		at.done = n == 0
		if n == 0 {
			err := s.view(ctx, roomID, r, func(v *View) error { return v.encodePage(out, at.events, p) })
			if err != nil {
				return nil, err
			}
			break
		}
	}
	if !at.done || more && s.Backfill != nil {
		out.End = token(at.next())
	}
	return out, nil
}

// next is where the next page begins.
func (at *reading) next() stream.Position {
	if at.backwards {
		return at.to
	}
	return at.from
}
