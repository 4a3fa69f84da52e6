package account

import (
	"context"
	"strings"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// The kinds of errands. Those of one room have the room's ID behind the kind.
const (
	errandProfile = "profile" // both fields that rooms show, as former versions have it
	errandName    = "profile " + FieldDisplayName
	errandAvatar  = "profile " + FieldAvatarURL
	errandRoom    = "room "
	errandLeave   = "leave"
	errandDevices = "devices" // delete those that are logged out
	errandErase   = "erase"   // delete the account data
)

// shownBy are the fields of the profile that an errand of a kind tells all rooms of; nil if it is another errand.
func shownBy(kind string) []string {
	switch kind {
	case errandProfile:
		return []string{FieldDisplayName, FieldAvatarURL}
	case errandName:
		return []string{FieldDisplayName}
	case errandAvatar:
		return []string{FieldAvatarURL}
	}
	return nil
}

// ShowIn has a room shown a user's profile, in the transaction that brings the user into it with an old one.
func (s *Service) ShowIn(tx *store.Tx, user id.UserID, room id.RoomID) error {
	tx.AfterCommit(s.wakeErrands)
	return tx.Errands.Add(user, errandRoom+string(room))
}

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

// Run tells rooms of changed profiles and of deactivated users, and deletes devices that are logged out, until the context ends. What a former
// process has left undone comes first. What fails is tried again for about a day, after a minute at first and then
// less and less often, and holds no other up; what concerns this server alone is never given up.
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
			list, err = tx.Errands.Due(now, 2*errandWait, errandBatch)
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

// errand is what an errand asks to do; nil if nobody does it. What is not done at once says after how long it is to go on.
func (s *Service) errand(e store.Errand) func(context.Context) (later time.Duration, err error) {
	whole := func(do func(context.Context, id.UserID) error) func(context.Context) (time.Duration, error) {
		return func(ctx context.Context) (time.Duration, error) { return 0, do(ctx, e.User) }
	}
	fields, room := shownBy(e.Kind), id.RoomID("")
	if in, ok := strings.CutPrefix(e.Kind, errandRoom); ok {
		fields, room = shownBy(errandProfile), id.RoomID(in)
	}
	switch {
	case e.Kind == errandDevices:
		return whole(func(ctx context.Context, u id.UserID) error { return s.finishLogout(ctx, u) })
	case e.Kind == errandErase:
		return whole(s.eraseData)
	case e.Kind == errandLeave && s.Deactivated != nil:
		return whole(s.Deactivated)
	case fields != nil && s.ProfileChanged != nil:
		return func(ctx context.Context) (time.Duration, error) { return s.showProfile(ctx, e, room, fields) }
	}
	return nil
}

// runErrand returns an error only if what came of the errand can't be noted.
func (s *Service) runErrand(ctx context.Context, e store.Errand) error {
	note := func(tx *store.Tx) error { return tx.Errands.Done(e) }
	if do := s.errand(e); do != nil {
		later, err := do(ctx)
		if later > 0 {
			due := time.Now().Add(later)
			note = func(tx *store.Tx) error { return tx.Errands.Delay(e, e.Failures, due) }
			time.AfterFunc(later, s.wakeErrands)
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err() // the server stops: nothing has failed
			}
			failures := e.Failures + 1
			log := s.Log.With("user", e.User, "what", e.Kind, "failures", failures, "err", err)
			if ours := e.Kind == errandDevices || e.Kind == errandErase; failures >= errandTries && !ours {
				log.Error("cannot finish what was decided about a user: given up")
			} else {
				log.Warn("cannot finish what was decided about a user")
				due := time.Now().Add(min(errandRetry<<min(e.Failures, 6), errandWait))
				note = func(tx *store.Tx) error { return tx.Errands.Delay(e, failures, due) }
			}
		}
	}
	// What is done is noted even if the server is to stop now.
	return s.DB.Update(context.WithoutCancel(ctx), note)
}
