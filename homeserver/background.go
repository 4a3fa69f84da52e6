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
		err := s.Store.Prune(ctx, func(tx *store.Tx, limit int) (int64, error) {
			return tx.Requests.Prune(now.Add(-rememberRequests), limit)
		})
		if err == nil {
			err = s.Store.Prune(ctx, func(tx *store.Tx, limit int) (int64, error) { return tx.Reports.Prune(now.Add(-keepReports), limit) })
		}
		if err != nil && ctx.Err() == nil {
			s.Log.Error("cannot prune the database", "err", err)
		}
		if err := s.Account.Prune(ctx); err != nil && ctx.Err() == nil {
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

// collectInterval is how often it is looked for states and rooms that nobody needs. Looking is cheap.
const collectInterval = 10 * time.Minute

// collect removes states that nothing refers to, and rooms that nobody here is in or remembers.
func (s *Server) collect(ctx context.Context) {
	tick := time.NewTicker(collectInterval)
	defer tick.Stop()
	for {
		done, err := s.Rooms.Collect(ctx, time.Now())
		if err != nil && ctx.Err() == nil {
			s.Log.Error("cannot collect what is unused", "err", err)
		}
		if done.Rooms > 0 {
			s.Log.Info("forgotten rooms were deleted", "rooms", done.Rooms)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
