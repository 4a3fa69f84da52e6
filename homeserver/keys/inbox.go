package keys

import (
	"cmp"
	"context"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// pruneInboxes takes out of inboxes what is too much in them.
func (s *Service) pruneInboxes(ctx context.Context) error {
	var full []store.ToDeviceMessage
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		full, err = tx.ToDevice.Overfull(maxInbox, maxInboxBytes)
		return err
	})
	for _, f := range full {
		if err == nil {
			err = s.pruneInbox(ctx, f.User, f.Device)
		}
	}
	if len(full) > 0 && s.Log != nil {
		s.Log.Warn("inboxes of devices that do not come were full: of those who sent the most, the oldest messages are dropped", "devices", len(full))
	}
	return err
}

// pruneInbox looks at all that waits for a device, which pruneIfFull keeps to a few times what an inbox may hold: whoever
// sends many small messages must not push out what is older than these.
func (s *Service) pruneInbox(ctx context.Context, user id.UserID, device id.DeviceID) error {
	var waiting []store.Waiting
	known := map[id.UserID]bool{}
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		if waiting, err = tx.ToDevice.Inbox(user, device); err != nil {
			return err
		}
		sharing, err := tx.Memberships.Sharing(user)
		for _, u := range sharing {
			known[u] = true
		}
		return err
	})
	if err != nil {
		return err
	}
	servers := map[id.ServerName]bool{}
	for u := range known {
		servers[u.Server()] = true
	}
	// Users of this server count for themselves. Others can have as many names as they like, so they count by servers, and
	// all servers that share no room with the user count as one.
	drop := surplus(waiting, maxInbox, maxInboxBytes, func(sender id.UserID) string {
		switch {
		case sender == "":
			return ""
		case s.isLocal(sender):
			return string(sender)
		case servers[sender.Server()]:
			return string(sender.Server())
		default:
			return "strangers"
		}
	})
	return s.Store.Update(ctx, func(tx *store.Tx) error { return tx.ToDevice.DeleteSome(user, device, drop) })
}

// surplus is what has to go of messages, given from the newest to the oldest, so that at most so many of so many bytes in all
// are left. Each sender keeps the newest up to a share; the share is as large as it can be, so that who sent less than that
// loses nothing.
func surplus(waiting []store.Waiting, count, bytes int, who func(id.UserID) string) (drop []stream.Position) {
	share := func(size func(store.Waiting) int, limit int) {
		sent := map[string]int{}
		for _, w := range waiting {
			sent[who(w.Sender)] += size(w)
		}
		most := fairShare(sent, limit)
		clear(sent)
		waiting = slices.DeleteFunc(waiting, func(w store.Waiting) bool {
			sent[who(w.Sender)] += size(w)
			over := sent[who(w.Sender)] > most
			if over {
				drop = append(drop, w.Position)
			}
			return over
		})
	}
	share(func(store.Waiting) int { return 1 }, count)
	share(func(w store.Waiting) int { return w.Size }, bytes)
	return drop
}

// fairShare is the most that each may have so that all together have no more than a limit.
func fairShare(sent map[string]int, limit int) int {
	type one struct {
		who string
		n   int
	}
	var all []one
	for who, n := range sent {
		all = append(all, one{who, n})
	}
	slices.SortFunc(all, func(a, b one) int { return cmp.Compare(a.n, b.n) })
	for i, o := range all {
		each := limit / (len(all) - i)
		if o.n > each {
			return each
		}
		limit -= o.n
	}
	return limit + 1<<40 // all is well
}
