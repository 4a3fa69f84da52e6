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
	errandRetry = time.Minute // doubled with each failure, up to errandWait
	errandWait  = time.Hour
	errandTries = 30 // about a day
)

func (s *Service) wakeErrands() {
	select {
	case s.errands <- struct{}{}:
	default:
	}
}

// Run tells rooms of changed profiles and of deactivated users until the context ends. What a former
// process has left undone comes first. What fails is tried again for about a day, after a minute at first and then
// less and less often, and holds no other up.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(errandRetry)
	defer tick.Stop()
	for {
		if err := s.runErrands(ctx); err != nil && ctx.Err() == nil {
			s.Log.Error("cannot see to the changes that rooms have to be told of", "err", err)
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
	for now := time.Now(); ; { // what fails from here on is due later
		var list []store.Errand
		err := s.DB.View(ctx, func(tx *store.Tx) (err error) {
			list, err = tx.Errands.Due(now, errandBatch)
			return err
		})
		if err != nil || len(list) == 0 {
			return err
		}
		for _, e := range list {
			if err := s.runErrand(ctx, e); err != nil {
				return err
			}
		}
	}
}

// runErrand returns an error only if what came of the errand can't be noted.
func (s *Service) runErrand(ctx context.Context, e store.Errand) error {
	do := s.ProfileChanged
	if e.Kind == errandLeave {
		do = s.Deactivated
	}
	note := func(tx *store.Tx) error { return tx.Errands.Done(e) }
	if do != nil {
		if err := do(ctx, e.User); err != nil {
			if ctx.Err() != nil {
				return ctx.Err() // the server stops: nothing has failed
			}
			failures := e.Failures + 1
			log := s.Log.With("user", e.User, "what", e.Kind, "failures", failures, "err", err)
			if failures >= errandTries {
				log.Error("cannot tell all rooms of a user: given up")
			} else {
				log.Warn("cannot tell all rooms of a user")
				due := time.Now().Add(min(errandRetry<<min(e.Failures, 6), errandWait))
				note = func(tx *store.Tx) error { return tx.Errands.Delay(e, failures, due) }
			}
		}
	}
	// What is done is noted even if the server is to stop now.
	return s.DB.Update(context.WithoutCancel(ctx), note)
}
