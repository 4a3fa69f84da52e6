package load

import (
	"context"
	"errors"
	"sync"
)

// Hold has what was read go on counting as somebody's while it is worked on.
type Hold struct {
	Who string

	lose context.CancelCauseFunc
	mu   sync.Mutex
	over bool
	ends []func()
}

type holdKey struct{}

// WithHold has all that is read for a context counted until release is called. The context ends before, because of ErrBusy, if
// others need the room and have less.
func WithHold(ctx context.Context, who string) (held context.Context, release func()) {
	ctx, lose := context.WithCancelCause(ctx)
	h := &Hold{Who: who, lose: lose}
	return context.WithValue(ctx, holdKey{}, h), h.release
}

// Lost is ErrBusy if the context of a hold ended because others needed the room, else the error that its work ended in.
func Lost(held context.Context, err error) error {
	if cause := context.Cause(held); err != nil && errors.Is(cause, ErrBusy) {
		return cause
	}
	return err
}

// Lose ends the work on what is held.
func (h *Hold) Lose() { h.lose(ErrBusy) }

// HoldOf is what goes on counting what is read for a context; nil if that ends once it is read.
func HoldOf(ctx context.Context) *Hold {
	h, _ := ctx.Value(holdKey{}).(*Hold)
	return h
}

// Until has end called once the hold is released.
func (h *Hold) Until(end func()) {
	h.mu.Lock()
	if !h.over {
		h.ends = append(h.ends, end)
		end = nil
	}
	h.mu.Unlock()
	if end != nil {
		end()
	}
}

func (h *Hold) release() {
	h.mu.Lock()
	ends := h.ends
	h.over, h.ends = true, nil
	h.mu.Unlock()
	for _, end := range ends {
		end()
	}
}
