package account

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Rate allows Count calls at once and as many in each Per. A zero Rate does not limit.
type Rate struct {
	Count int
	Per   time.Duration
}

// looksPerCall is how many rooms that are shown a profile already, as after a restart, count as one call.
const looksPerCall = 10

// pace bounds what is written when a user's profile is shown, and knows where that is to go on. What it knows is lost when
// the process ends; then rooms are looked at from the first.
type pace struct {
	paid   time.Time        // when all that was written is paid for
	passes map[string]*pass // by kind of errand
}

// pass is one way of an errand through the rooms of a user.
type pass struct {
	serial int64     // of the errand when it began
	after  id.RoomID // the last room
	err    error     // of the first room that failed
}

// wait is how long a pace that is used up has to wait until it is paid for.
func (p *pace) wait(r Rate, now time.Time) time.Duration {
	if r.Count <= 0 {
		return 0
	}
	if left := p.paid.Sub(now); left > r.Per-r.Per/time.Duration(r.Count) {
		return left
	}
	return 0
}

// count counts a room that was looked at, and the size of the event that was written there, if one was.
func (p *pace) count(r Rate, now time.Time, size int) {
	if r.Count <= 0 {
		return
	}
	each := r.Per / time.Duration(r.Count)
	cost := each / looksPerCall
	if size > 0 {
		cost = each * time.Duration(1+load.MoreCalls(size))
	}
	if p.paid.Before(now) {
		p.paid = now
	}
	p.paid = p.paid.Add(cost)
}

// paceOf is the pace of a user. Only the one who does errands asks.
func (s *Service) paceOf(user id.UserID, now time.Time) *pace {
	for u, p := range s.paces {
		if now.Sub(p.paid) > errandWait { // another process goes on with what is left
			delete(s.paces, u)
		}
	}
	p := s.paces[user]
	if p == nil {
		p = &pace{paid: now, passes: map[string]*pass{}}
		s.paces[user] = p
	}
	return p
}

// showProfile shows fields of a user's profile, as it is now, in all rooms of the user, or in one. If that is more than the user may
// write at a time, it stops, and says after how long it is to be called again: what changes until then is shown at once
// with it, and only what is asked for behind the first room makes for another pass.
func (s *Service) showProfile(ctx context.Context, e store.Errand, only id.RoomID, fields []string) (later time.Duration, err error) {
	pace := s.paceOf(e.User, time.Now())
	if later = pace.wait(s.ProfileRate, time.Now()); later > 0 {
		return later, nil
	}
	shown := Shown{User: e.User, Fields: fields}
	rooms := []id.RoomID{only}
	err = s.DB.View(ctx, func(tx *store.Tx) (err error) {
		if shown.Profile, err = tx.Profiles.Get(e.User); err != nil || only != "" {
			return err
		}
		joined, err := tx.Memberships.ByUser(e.User, "join")
		rooms = rooms[:0]
		for _, m := range joined {
			rooms = append(rooms, m.RoomID)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	slices.Sort(rooms)
	for {
		p := pace.passes[e.Kind]
		if p == nil {
			p = &pass{serial: e.Serial}
			pace.passes[e.Kind] = p
		}
		if later, err = s.goOn(ctx, pace, p, shown, rooms); later > 0 || err != nil && ctx.Err() != nil {
			return later, err
		}
		delete(pace.passes, e.Kind)
		if p.serial == e.Serial || err != nil {
			return 0, err
		}
	}
}

// goOn goes on with a pass until the pace is used up. Rooms that fail hold up no others.
func (s *Service) goOn(ctx context.Context, pace *pace, p *pass, shown Shown, rooms []id.RoomID) (later time.Duration, err error) {
	first, found := slices.BinarySearch(rooms, p.after)
	if found {
		first++
	}
	for _, room := range rooms[first:] {
		if later = pace.wait(s.ProfileRate, time.Now()); later > 0 {
			return later, nil
		}
		size, err := s.ProfileChanged(ctx, room, shown)
		if err != nil && ctx.Err() != nil {
			return 0, err
		}
		pace.count(s.ProfileRate, time.Now(), size)
		p.after, p.err = room, cmp.Or(p.err, err)
	}
	return 0, p.err
}
