package sender

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// Share is how many data units may wait, and how many bytes of them.
type Share struct{ Count, Bytes int }

// Bounds are how much may wait of what local users have put there, above all messages to devices. Where it is more, those lose
// who have the most, and of these the servers for which the most waits, the oldest first: nobody else's is touched, and users
// are refused nothing, as that would keep room keys from servers that are there because of others that are not. What is lost is
// as if the server had been gone for too long: its devices ask for keys again. Events are not among it: they are in the
// outbox by number.
type Bounds struct {
	User   Share // of one local user
	Server Share // for one destination
	All    Share
	// Every is how many bytes may come before it is looked at again.
	Every int64
}

var usualBounds = Bounds{
	User: Share{50_000, 64 << 20}, Server: Share{200_000, 256 << 20}, All: Share{1_000_000, 1 << 30}, Every: 64 << 20,
}

const (
	// lookAtBounds is how often it is looked at anyway.
	lookAtBounds = time.Hour
	// dropStep is how many data units one update drops.
	dropStep = 500
)

// keepBounds trims what waits when much has come, and from time to time.
func (s *Sender) keepBounds() {
	defer s.done.Done()
	tick := time.NewTicker(lookAtBounds)
	defer tick.Stop()
	for {
		seen := s.Store.Queued()
		if err := s.trim(s.ctx); err != nil && s.ctx.Err() == nil {
			s.Log.Error("cannot bound what waits for other servers", "err", err)
		}
		for wait := true; wait; {
			select {
			case <-s.ctx.Done():
				return
			case <-tick.C:
				wait = false
			case <-s.queued:
				wait = s.Store.Queued()-seen < s.Bounds.Every
			}
		}
	}
}

// trim drops what is too much.
func (s *Sender) trim(ctx context.Context) error {
	var users map[id.UserID]store.OutboxSize
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		users, err = tx.Outbox.BySender()
		return err
	})
	if err != nil {
		return err
	}
	each := shares(users, s.Bounds.User, s.Bounds.All)
	for _, user := range slices.Sorted(maps.Keys(users)) {
		if n := users[user]; n.Count <= each.Count && n.Bytes <= each.Bytes {
			continue
		}
		of := func(tx *store.Tx) ([]store.OutboxUnit, error) { return tx.Outbox.OfSender(user) }
		if err := s.drop(ctx, of, each, func(u store.OutboxUnit) string { return string(u.Destination) }, "user", string(user)); err != nil {
			return err
		}
	}
	var servers map[id.ServerName]store.OutboxSize
	err = s.Store.View(ctx, func(tx *store.Tx) (err error) {
		servers, err = tx.Outbox.ByDestination()
		return err
	})
	for _, server := range slices.Sorted(maps.Keys(servers)) {
		if n := servers[server]; err != nil || n.Count <= s.Bounds.Server.Count && n.Bytes <= s.Bounds.Server.Bytes {
			continue
		}
		of := func(tx *store.Tx) ([]store.OutboxUnit, error) { return tx.Outbox.ForDestination(server) }
		err = s.drop(ctx, of, s.Bounds.Server, func(u store.OutboxUnit) string { return string(u.Sender) }, "server", string(server))
	}
	return err
}

// shares is what each user may have: a bound, or less where all together have too much.
func shares(users map[id.UserID]store.OutboxSize, each, all Share) Share {
	count, bytes := map[id.UserID]int{}, map[id.UserID]int{}
	for user, n := range users {
		count[user], bytes[user] = min(n.Count, each.Count), min(n.Bytes, each.Bytes)
	}
	return Share{min(each.Count, load.FairShare(count, all.Count)), min(each.Bytes, load.FairShare(bytes, all.Bytes))}
}

// drop drops the surplus of some data units.
func (s *Sender) drop(ctx context.Context, of func(*store.Tx) ([]store.OutboxUnit, error), keep Share, who func(store.OutboxUnit) string, what, name string) error {
	var units []store.OutboxUnit
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		units, err = of(tx)
		return err
	})
	if err != nil {
		return err
	}
	lost := load.Surplus(units, keep.Count, keep.Bytes, who, func(u store.OutboxUnit) int { return u.Size })
	at := map[id.ServerName][]stream.Position{}
	for _, u := range lost {
		at[u.Destination] = append(at[u.Destination], u.Position)
	}
	for server, positions := range at {
		for some := range slices.Chunk(positions, dropStep) {
			if err := s.Store.Update(ctx, func(tx *store.Tx) error { return tx.Outbox.DeleteSome(server, some) }); err != nil {
				return err
			}
		}
	}
	s.Log.Warn("too much waits for other servers: the oldest data units are dropped", what, name, "units", len(lost), "servers", len(at))
	return nil
}
