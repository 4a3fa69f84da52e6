package keys

import (
	"context"
	"slices"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
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
	who := func(w store.Waiting) string {
		switch sender := w.Sender; {
		case sender == "":
			return ""
		case s.isLocal(sender):
			return string(sender)
		case servers[sender.Server()]:
			return string(sender.Server())
		default:
			return "strangers"
		}
	}
	var drop []stream.Position
	for _, w := range load.Surplus(waiting, maxInbox, maxInboxBytes, who, func(w store.Waiting) int { return w.Size }) {
		drop = append(drop, w.Position)
	}
	for some := range slices.Chunk(drop, dropStep) {
		if err := s.Store.Update(ctx, func(tx *store.Tx) error { return tx.ToDevice.DeleteSome(user, device, some) }); err != nil {
			return err
		}
	}
	return nil
}
