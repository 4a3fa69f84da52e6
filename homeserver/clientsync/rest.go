package clientsync

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/store"
)

const (
	// maxWholeState is how many bytes of state are held in an answer. What is beyond is read while the answer goes out,
	// stateStep events at a time, so that no client has to ask for what was left out.
	maxWholeState = 16 << 20
	stateStep     = 50
	// restLoad is what an answer counts as besides what it holds while such events are read.
	restLoad = 8 << 20
	// userAnswers bounds what the answers to one user count as, unless it is a single one, allAnswers those to all. They
	// count from when they are made until they are read.
	userAnswers = 64 << 20
	allAnswers  = 256 << 20
)

// stateWriter writes the events of a state section that the filter lets through.
type stateWriter struct {
	left  int  // how many more it lets through
	begun bool // one has been written
}

// restOfState are the events of a state section that are read while the answer goes out.
type restOfState struct {
	stateWriter
	nids []store.EventNID
}

// writeEvents writes the events of a state section, as far as the answer has room for them.
func (b *builder) writeEvents(s *section, n *stateNeeded, wanted []store.EventNID) error {
	w := stateWriter{left: b.f.Room.State.Count(math.MaxInt, math.MaxInt)}
	for len(wanted) > 0 && w.left > 0 && b.toldSize < b.e.wholeState {
		some := wanted[:min(len(wanted), stateStep)]
		wanted = wanted[len(some):]
		shown, err := w.write(b, s, some)
		if err != nil {
			return err
		}
		for _, ev := range shown {
			if ev.Type == event.TypeMember {
				n.found = append(n.found, ev)
			}
		}
	}
	if len(wanted) > 0 && w.left > 0 {
		s.gaps = append(s.gaps, gap{at: len(s.buf), state: &restOfState{w, wanted}})
	}
	return nil
}

// write reads some events, and writes and returns those that are shown.
func (w *stateWriter) write(b *builder, s *section, nids []store.EventNID) ([]*store.Event, error) {
	list, err := b.tx.Events.ByNID(nids...)
	if err != nil {
		return nil, err
	}
	shown := list[:0]
	for _, ev := range list {
		if b.toldSize += len(ev.JSON); w.left == 0 || !b.stateAllows(ev) {
			continue
		}
		if w.begun {
			s.buf = append(s.buf, ',')
		}
		w.begun = true
		w.left--
		before := len(s.buf)
		if s.buf, err = b.appendStateEvent(s.buf, ev); err != nil {
			return nil, err
		}
		b.toldSize += max(0, len(s.buf)-before-len(ev.JSON)) // what redacted it
		shown = append(shown, ev)
	}
	return shown, nil
}

// weighIn charges an answer for what it holds, once that is much: it stands twice in memory when it is put together.
func (b *builder) weighIn() error {
	size := 0
	for i := range b.parts {
		size += 2 * len(b.parts[i].buf)
	}
	if size <= load.Free {
		return nil
	}
	if b.charge == nil {
		b.charge = b.e.Answers.Charge(string(b.p.user), nil)
	}
	return b.charge.Grow(int64(size))
}

// Whole says that Body is all of an answer.
func (a *Answer) Whole() bool { return len(a.later) == 0 }

// Each hands on an answer in pieces. What is missing in Body is read meanwhile; no reader of the database is held while a
// piece is handed on. Error: load.ErrBusy, also before the first piece.
func (a *Answer) Each(ctx context.Context, each func([]byte) error) error {
	if a.Whole() {
		return each(a.Body)
	}
	if err := a.charge.Grow(2*int64(len(a.Body)) + restLoad); err != nil {
		return fmt.Errorf("a large answer to a sync: %w", err)
	}
	from := 0
	for _, g := range a.later {
		if err := each(a.Body[from:g.at]); err != nil {
			return err
		}
		from = g.at
		w := g.state.stateWriter
		for some := range slices.Chunk(g.state.nids, stateStep) {
			var s section
			err := a.e.Store.View(ctx, func(tx *store.Tx) error {
				_, err := w.write(&builder{e: a.e, tx: tx, f: a.filter}, &s, some)
				return err
			})
			if err == nil {
				err = each(s.buf)
			}
			if err != nil {
				return err
			}
		}
	}
	return each(a.Body[from:])
}

// Large says that the answer counts as one that takes up memory, until it is closed.
func (a *Answer) Large() bool { return a.charge != nil }

// Losable has a large answer dropped once others need the room, and nobody has more of it.
func (a *Answer) Losable(drop func()) { a.charge.Losable(drop) }

// Lost says that a large answer was dropped.
func (a *Answer) Lost() bool { return a.charge.Over() }

// Close gives back what an answer takes up.
func (a *Answer) Close() {
	if a.charge != nil {
		a.charge.End()
	}
}
