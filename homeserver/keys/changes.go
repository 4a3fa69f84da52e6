package keys

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// Changes are the users whose devices a client has to look at again, and those whose it need not follow
// any longer.
type Changes struct {
	Changed, Left []id.UserID
}

// ChangesIn finds the changes of lists of devices that concern a user in from < p <= to: of users who share
// a room with the user and changed their devices or came to share one, and of users who no longer do.
func (s *Service) ChangesIn(tx *store.Tx, user id.UserID, from, to stream.Position) (Changes, error) {
	listed, err := tx.DeviceLists.Changed(user, from, to)
	if err != nil {
		return Changes{}, err
	}
	came, gone, err := s.moved(tx, user, from, to)
	if err != nil {
		return Changes{}, err
	}
	for _, u := range listed {
		came[u] = true
		delete(gone, u)
	}
	if len(gone) > 0 {
		still, err := tx.DeviceLists.SharingWith(slices.Collect(maps.Keys(gone)), user)
		if err != nil {
			return Changes{}, err
		}
		maps.DeleteFunc(gone, func(u id.UserID, _ bool) bool { return still[u] || u == user })
	}
	return Changes{Changed: slices.Sorted(maps.Keys(came)), Left: slices.Sorted(maps.Keys(gone))}, nil
}

// moved finds who came to share a room with a user, and who may have ceased to.
func (s *Service) moved(tx *store.Tx, user id.UserID, from, to stream.Position) (came, gone map[id.UserID]bool, err error) {
	came, gone = map[id.UserID]bool{}, map[id.UserID]bool{}
	others, err := tx.DeviceLists.Moved(user, from, to)
	if err != nil {
		return nil, nil, err
	}
	var local []id.UserID
	for _, m := range others {
		switch {
		case m.User == user:
		case m.Membership == "join" && s.isLocal(m.User):
			local = append(local, m.User)
		case m.Membership == "join":
			came[m.User] = true
		case m.Membership == "leave" || m.Membership == "ban":
			gone[m.User] = true
		}
	}
	// A changed profile looks like a join; of local users more is known.
	joined, err := tx.DeviceLists.Joined(local, from, to)
	if err != nil {
		return nil, nil, err
	}
	maps.Copy(came, joined)
	if err := ownMoves(tx, user, from, to, came, gone); err != nil {
		return nil, nil, err
	}
	for u := range came {
		delete(gone, u)
	}
	return came, gone, nil
}

// ownMoves adds the members of the rooms that a user has entered, or left for good.
func ownMoves(tx *store.Tx, user id.UserID, from, to stream.Position, came, gone map[id.UserID]bool) error {
	own, err := tx.Memberships.Changes(user, from, to)
	if err != nil {
		return err
	}
	type move struct{ before, now, moved bool }
	rooms := map[store.RoomNID]move{}
	for _, c := range own {
		was, is := c.Former == "join", c.Membership == "join"
		m, seen := rooms[c.Room]
		if !seen {
			m.before = was
		}
		rooms[c.Room] = move{m.before, is, m.moved || was != is}
	}
	for room, m := range rooms {
		into := came
		if !m.moved || !m.now && !m.before {
			continue
		}
		if !m.now {
			into = gone
		}
		members, err := tx.Memberships.Users(room, "join")
		if err != nil {
			return err
		}
		for _, u := range members {
			into[u] = true
		}
	}
	return nil
}

// Changes is ChangesIn for who asks for it by itself (Client-Server API, GET /keys/changes).
func (s *Service) Changes(ctx context.Context, user id.UserID, from, to stream.Position) (Changes, error) {
	var out Changes
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		out, err = s.ChangesIn(tx, user, from, to)
		return err
	})
	if err != nil {
		return Changes{}, fmt.Errorf("changes of device lists: %w", err)
	}
	return out, nil
}
