package homeserver

import (
	"context"
	"time"

	"github.com/securecomm/securecomm/homeserver/store"
)

// Answers to repeated requests are remembered for this long.
const rememberRequests = 24 * time.Hour

// Reports of users are kept for this long.
const keepReports = 183 * 24 * time.Hour

// prune removes what tables need no longer, once an hour.
func (s *Server) prune(ctx context.Context) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		now := time.Now()
		err := s.Store.Update(ctx, func(tx *store.Tx) error {
			if err := tx.Requests.Prune(now.Add(-rememberRequests)); err != nil {
				return err
			}
			return tx.Reports.Prune(now.Add(-keepReports))
		})
		if err != nil && ctx.Err() == nil {
			s.Log.Error("cannot prune the database", "err", err)
		}
		if err := s.Keys.Prune(ctx); err != nil && ctx.Err() == nil {
			s.Log.Error("cannot prune the database", "err", err)
		}
		if s.federation != nil {
			if err := s.federation.Prune(ctx); err != nil && ctx.Err() == nil {
				s.Log.Error("cannot prune the database", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
