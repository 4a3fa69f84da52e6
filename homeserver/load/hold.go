package load

import (
	"context"
	"sync"
)

// Hold has what was read go on counting as somebody's while it is worked on.
type Hold struct {
	Who string

	mu   sync.Mutex
	over bool
	ends []func()
}

type holdKey struct{}

// WithHold has all that is read for a context counted until release is called.
func WithHold(ctx context.Context, who string) (held context.Context, release func()) {
	h := &Hold{Who: who}
	return context.WithValue(ctx, holdKey{}, h), h.release
}

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
