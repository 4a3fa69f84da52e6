package media

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	placesInAll     = 32 // downloads from elsewhere at a time
	placesForUser   = 8
	placesForServer = 16
)

// errCrowded says that a download gave its place to one for somebody who had fewer.
var errCrowded = errors.New("others need the place of this download")

// places are those for downloads from elsewhere. A download counts for the user who wants it and for the server that it comes
// from, so that neither can fill them: if all are taken, whoever has more than who comes loses the oldest.
type places struct {
	mu    sync.Mutex
	held  []*holder // oldest first
	freed chan struct{}
}

// holder has a place.
type holder struct {
	user   id.UserID     // empty: counts for nobody
	server id.ServerName // or another host
	cancel context.CancelCauseFunc
}

// enter takes a place; leave gives it back. The context returned ends if the place is lost.
func (p *places) enter(ctx context.Context, user id.UserID, server id.ServerName) (inside context.Context, leave func(), err error) {
	inside, cancel := context.WithCancelCause(ctx)
	h := &holder{user, server, cancel}
	for {
		p.mu.Lock()
		if p.freed == nil {
			p.freed = make(chan struct{})
		}
		taken, freed := p.take(h), p.freed
		p.mu.Unlock()
		if taken {
			return inside, func() { p.leave(h) }, nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			cancel(nil)
			return nil, nil, ctx.Err()
		}
	}
}

// take takes a place if there is one, or if somebody with more has to give one. The caller holds the lock.
func (p *places) take(h *holder) bool {
	users, servers := map[id.UserID]int{}, map[id.ServerName]int{}
	for _, other := range p.held {
		if other.user != "" {
			users[other.user]++
		}
		servers[other.server]++
	}
	if users[h.user] >= placesForUser || servers[h.server] >= placesForServer {
		return false
	}
	if len(p.held) == placesInAll {
		// Who comes must not have more afterwards than who goes, or they would take turns.
		mine := max(users[h.user], servers[h.server]) + 1
		i := slices.IndexFunc(p.held, func(other *holder) bool { return max(users[other.user], servers[other.server]) > mine })
		if i < 0 {
			return false
		}
		p.held[i].cancel(errCrowded)
		p.held = slices.Delete(p.held, i, i+1)
	}
	p.held = append(p.held, h)
	return true
}

func (p *places) leave(h *holder) {
	h.cancel(nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.held, h); i >= 0 {
		p.held = slices.Delete(p.held, i, i+1)
		close(p.freed)
		p.freed = make(chan struct{})
	}
}
