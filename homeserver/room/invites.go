package room

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Invites of other servers' users that a room begins with. They are written in the transaction that makes the room, and
// delivered from there: a server that is away gets them when it is back.

const (
	// maxUndelivered is how many invites of one user may wait for other servers.
	maxUndelivered = 500
	// inviteWorkers is how many invites are tried at a time, inviteEach how many of these for one user. Invites at a time
	// fork their room.
	inviteWorkers, inviteEach = 32, 8
	inviteTime                = time.Minute // how long each may take
	inviteLease               = 2 * time.Minute
	inviteBatch               = 200
	// An invite that fails is tried again when it is half as old again, from the first pause on up to the longest one.
	inviteFirst, inviteLongest, inviteLast = time.Second, time.Hour, 24 * time.Hour
)

// inviting is what goes on with the invites of new rooms in this process.
type inviting struct {
	mu      sync.Mutex
	woken   chan struct{}
	servers map[id.ServerName]bool      // with each, one at a time is tried
	senders map[id.UserID]int           // how many are being tried for each
	running int                         // how many are being tried
	first   map[id.RoomID]*firstInvites // rooms whose creators wait
}

// firstInvites are the invites of a room that have not been tried yet.
type firstInvites struct {
	left map[id.UserID]bool
	done chan struct{}
}

// lock locks, and makes what is missing.
func (i *inviting) lock() {
	i.mu.Lock()
	if i.woken == nil {
		i.woken = make(chan struct{}, 1)
		i.servers, i.senders, i.first = map[id.ServerName]bool{}, map[id.UserID]int{}, map[id.RoomID]*firstInvites{}
	}
}

// wakes is what tells that there is something to do.
func (i *inviting) wakes() <-chan struct{} {
	i.lock()
	defer i.mu.Unlock()
	return i.woken
}

func (i *inviting) wake() {
	i.lock()
	defer i.mu.Unlock()
	select {
	case i.woken <- struct{}{}:
	default:
	}
}

// expect notes invites whose first try somebody is going to wait for.
func (i *inviting) expect(room id.RoomID, users []id.UserID) {
	f := &firstInvites{map[id.UserID]bool{}, make(chan struct{})}
	for _, u := range users {
		f.left[u] = true
	}
	i.lock()
	defer i.mu.Unlock()
	i.first[room] = f
}

// tried notes that an invite has been tried, or all of a room if the user is empty.
func (i *inviting) tried(room id.RoomID, user id.UserID) {
	i.lock()
	defer i.mu.Unlock()
	f := i.first[room]
	if f == nil {
		return
	}
	if delete(f.left, user); len(f.left) == 0 || user == "" {
		close(f.done)
		delete(i.first, room)
	}
}

// busy are the servers with which an invite is being tried, and the users for whom a number of them are.
func (i *inviting) busy(share int) (servers []id.ServerName, senders []id.UserID) {
	i.lock()
	defer i.mu.Unlock()
	for user, n := range i.senders {
		if n >= share {
			senders = append(senders, user)
		}
	}
	return slices.Collect(maps.Keys(i.servers)), senders
}

// begin takes a place for an invite; false if there is none, or its server has one or its sender has its share.
func (i *inviting) begin(p store.PendingInvite, share int) bool {
	i.lock()
	defer i.mu.Unlock()
	server := p.User.Server()
	if i.servers[server] || i.senders[p.Sender] >= share || i.running == inviteWorkers {
		return false
	}
	i.servers[server] = true
	i.senders[p.Sender]++
	i.running++
	return true
}

func (i *inviting) end(p store.PendingInvite) {
	i.lock()
	delete(i.servers, p.User.Server())
	if i.senders[p.Sender]--; i.senders[p.Sender] == 0 {
		delete(i.senders, p.Sender)
	}
	i.running--
	i.mu.Unlock()
	i.wake()
}

// foreign are the invited users of other servers.
func (c *Creation) foreign(server id.ServerName) []id.UserID {
	return slices.DeleteFunc(slices.Clone(c.Invite), func(u id.UserID) bool { return u.Server() == server })
}

// noteInvites writes down which users of other servers a new room is to invite, in the transaction that makes it.
// Error: ErrTooMany.
func (c *Creation) noteInvites(tx *store.Tx, room store.RoomNID, users []id.UserID) error {
	if len(users) == 0 {
		return nil
	}
	n, err := tx.Invites.Count(c.Creator)
	if err != nil {
		return err
	}
	if n+len(users) > maxUndelivered {
		return fmt.Errorf("%w invites of yours wait for servers that do not answer", ErrTooMany)
	}
	now := time.Now()
	for _, u := range users {
		if err := tx.Invites.Add(store.PendingInvite{Room: room, User: u, Sender: c.Creator, Direct: c.IsDirect, Since: now, Due: now}); err != nil {
			return err
		}
	}
	return nil
}

// AwaitInvites waits until each invite that a new room began with has been tried once, or the context ends.
func (e *Engine) AwaitInvites(ctx context.Context, roomID id.RoomID) {
	e.invites.lock()
	f := e.invites.first[roomID]
	e.invites.mu.Unlock()
	if f == nil {
		return
	}
	select {
	case <-f.done:
	case <-ctx.Done():
	}
}

// RunInvites delivers the invites that rooms began with until the context ends. What a former process has left undone is
// done too.
func (e *Engine) RunInvites(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	woken := e.invites.wakes()
	for {
		next, err := e.startInvites(ctx, &running)
		if err != nil && ctx.Err() == nil {
			e.Log.Error("cannot see to invites that have not been delivered", "err", err)
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-woken:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// startInvites begins with what is due, those first for whose senders least is being done, and says when to look again.
func (e *Engine) startInvites(ctx context.Context, running *sync.WaitGroup) (time.Duration, error) {
	now := time.Now()
	for share := 1; share <= inviteEach; {
		var due []store.PendingInvite
		servers, senders := e.invites.busy(share)
		err := e.Store.View(ctx, func(tx *store.Tx) (err error) {
			due, err = tx.Invites.Due(now, inviteLongest, inviteBatch, servers, senders)
			return err
		})
		if err != nil {
			return inviteFirst, err
		}
		begun := false
		for _, p := range due {
			started, err := e.startInvite(ctx, p, share, running)
			if err != nil {
				return inviteFirst, err
			}
			begun = begun || started
		}
		if !begun {
			share++
		}
	}
	next := inviteLease
	return next, e.Store.View(ctx, func(tx *store.Tx) error {
		at, any, err := tx.Invites.NextDue(now)
		if err == nil && any {
			next = max(0, min(next, time.Until(at)))
		}
		return err
	})
}

// startInvite begins with an invite unless it has to wait for others, or somebody else does it.
func (e *Engine) startInvite(ctx context.Context, p store.PendingInvite, share int, running *sync.WaitGroup) (bool, error) {
	if !e.invites.begin(p, share) {
		return false, nil
	}
	taken := false
	err := e.Store.Update(ctx, func(tx *store.Tx) (err error) {
		taken, err = tx.Invites.Take(p, time.Now().Add(inviteLease))
		return err
	})
	if err != nil || !taken {
		e.invites.end(p)
		return false, err
	}
	running.Go(func() {
		e.deliverInvite(ctx, p)
		e.invites.end(p)
		e.invites.tried(p.RoomID, p.User)
	})
	return true, nil
}

// deliverInvite tries to deliver an invite and notes what came of it.
func (e *Engine) deliverInvite(ctx context.Context, p store.PendingInvite) {
	limited, cancel := context.WithTimeout(ctx, inviteTime)
	err := e.inviteOnce(limited, p)
	cancel()
	if ctx.Err() != nil {
		// The server stops: nothing has failed, and the next start does not wait.
		note := func(tx *store.Tx) error { return tx.Invites.Delay(p, time.Time{}, p.Due) }
		if err == nil {
			note = func(tx *store.Tx) error { return tx.Invites.Done(p) }
		}
		_ = e.Store.Update(context.WithoutCancel(ctx), note) // else it is due after its lease
		return
	}
	log := e.Log.With("room", p.RoomID, "user", p.User, "err", err)
	now := time.Now()
	age := now.Sub(p.Since)
	note := func(tx *store.Tx) error { return tx.Invites.Done(p) }
	switch {
	case err == nil:
	case refusesInvite(err):
		log.Info("an invite into a new room is refused")
	case age > inviteLast:
		log.Warn("an invite into a new room cannot be delivered: given up")
	default:
		log.Info("an invite into a new room has to wait")
		due := now.Add(max(inviteFirst, min(age/2, inviteLongest)))
		note = func(tx *store.Tx) error { return tx.Invites.Delay(p, now, due) }
	}
	if err := e.Store.Update(ctx, note); err != nil {
		log.Error("cannot note what came of an invite", "reason", err)
	}
}

// refusesInvite says whether an invite fails for good.
func refusesInvite(err error) bool {
	for _, final := range []error{ErrForbidden, ErrNotFound, ErrUnknownVersion, ErrBadRequest} {
		if errors.Is(err, final) {
			return true
		}
	}
	return false
}

// inviteOnce invites a user into a new room, unless that has been done or the user is banned.
func (e *Engine) inviteOnce(ctx context.Context, p store.PendingInvite) error {
	membership, _, err := e.MembershipOf(ctx, p.RoomID, p.User)
	if err != nil || membership == "invite" || membership == "join" || membership == "ban" {
		return err
	}
	return e.Invite(ctx, Change{Room: p.RoomID, Sender: p.Sender, Target: p.User, IsDirect: p.Direct})
}
