package homeserver

import (
	"context"
	"time"

	"github.com/securecomm/securecomm/homeserver/store"
)

// Answers to repeated requests are remembered for this long.
const rememberRequests = 24 * time.Hour

// prune removes what tables need no longer, once an hour.
func (s *Server) prune(ctx context.Context) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		before := time.Now().Add(-rememberRequests)
		err := s.Store.Update(ctx, func(tx *store.Tx) error { return tx.Requests.Prune(before) })
		if err != nil && ctx.Err() == nil {
			s.Log.Error("cannot prune the database", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
