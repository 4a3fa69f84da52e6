package account

import (
	"context"
	"time"

	"github.com/securecomm/securecomm/homeserver/store"
)

// The kinds of errands.
const (
	errandProfile = "profile"
	errandLeave   = "leave"
)

const (
	errandBatch = 100
	errandRetry = time.Minute
)

func (s *Service) wakeErrands() {
	select {
	case s.errands <- struct{}{}:
	default:
	}
}

// Run tells rooms of changed profiles and of deactivated users until the context ends. What a former
// process has left undone comes first. What fails is tried again after a minute.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(errandRetry)
	defer tick.Stop()
	for {
		if err := s.runErrands(ctx); err != nil && ctx.Err() == nil {
			s.Log.Error("cannot look for changes that rooms have to be told of", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.errands:
		case <-tick.C:
		}
	}
}

func (s *Service) runErrands(ctx context.Context) error {
	for {
		var list []store.Errand
		err := s.DB.View(ctx, func(tx *store.Tx) (err error) {
			list, err = tx.Errands.List(errandBatch)
			return err
		})
		if err != nil {
			return err
		}
		done := 0
		for _, e := range list {
			if s.runErrand(ctx, e) {
				done++
			}
		}
		if len(list) < errandBatch || done == 0 {
			return nil
		}
	}
}

// runErrand says whether it is done. One that fails stays and holds no other up.
func (s *Service) runErrand(ctx context.Context, e store.Errand) bool {
	do := s.ProfileChanged
	if e.Kind == errandLeave {
		do = s.Deactivated
	}
	if do != nil {
		if err := do(ctx, e.User); err != nil {
			if ctx.Err() == nil {
				s.Log.Warn("cannot tell all rooms of a user", "user", e.User, "what", e.Kind, "err", err)
			}
			return false
		}
	}
	// What is done is noted even if the server is to stop now.
	if err := s.DB.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error { return tx.Errands.Done(e) }); err != nil {
		if ctx.Err() == nil {
			s.Log.Error("cannot note that rooms were told of a user", "user", e.User, "err", err)
		}
		return false
	}
	return true
}
