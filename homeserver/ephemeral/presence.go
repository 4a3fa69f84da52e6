package ephemeral

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// States of presence.
const (
	Online      = "online"
	Unavailable = "unavailable"
	Offline     = "offline"
)

const (
	// offlineAfter is how long a user stays who no longer syncs.
	offlineAfter = 30 * time.Second
	// activeFor is for how long after something that a user did the user counts as currently active.
	activeFor = time.Minute
	// A user of another server goes offline whom that has not spoken of for remoteFor: it may have died. So that ours do
	// not there, it is repeated every repeatEvery that they are not offline.
	remoteFor   = 30 * time.Minute
	repeatEvery = 20 * time.Minute
	// announceEvery is how long changes are collected before those concerned are told.
	announceEvery = 100 * time.Millisecond
	checkEvery    = 5 * time.Second

	maxStatus    = 1024 // bytes of a status message
	maxPresent   = 1 << 16
	maxPushed    = 1000 // users in a data unit
	keptPresence = 1 << 12
)

// Status is the presence of a user.
type Status struct {
	User            id.UserID
	State           string
	Message         string
	LastActive      time.Time // zero: not known
	CurrentlyActive bool
}

type presenceOf struct {
	Status
	syncing  int       // how many syncs of the user wait at the moment
	lastSync time.Time // of a user of another server: when that spoke of the user
	told     time.Time // when others were told last
	changed  int64     // volatile position
}

type presence struct {
	mu      sync.Mutex
	users   map[id.UserID]*presenceOf
	recent  []presenceChange // the newest changes, in order
	floor   int64            // changes up to it are not in recent
	latest  int64
	pending map[id.UserID]bool // who has changed without those concerned having been told
	nudge   chan struct{}
}

type presenceChange struct {
	at   int64
	user id.UserID
}

// Content is a presence as the content of an m.presence event.
func (p *Status) Content() map[string]any {
	out := map[string]any{"presence": p.State}
	if p.Message != "" {
		out["status_msg"] = p.Message
	}
	if !p.LastActive.IsZero() {
		out["last_active_ago"] = max(0, time.Since(p.LastActive).Milliseconds())
	}
	if p.State == Online {
		out["currently_active"] = p.CurrentlyActive
	}
	return out
}

func checkState(state string) error {
	if state != Online && state != Unavailable && state != Offline {
		return fmt.Errorf("%w: no presence %.50q", ErrInvalid, state)
	}
	return nil
}

// SetPresence sets the presence of a local user as the user asks for it.
func (s *Service) SetPresence(user id.UserID, state, message string) error {
	if err := checkState(state); err != nil {
		return err
	}
	if len(message) > maxStatus {
		return fmt.Errorf("%w: a status message has at most %d bytes", ErrInvalid, maxStatus)
	}
	s.updatePresence(user, func(p *presenceOf) {
		p.State, p.Message, p.LastActive, p.lastSync = state, message, time.Now(), time.Now()
	})
	return nil
}

// Syncing notes that a user's client syncs, with the presence that it asks for (empty: online), until the function
// returned is called.
func (s *Service) Syncing(user id.UserID, state string) (done func(), err error) {
	if state == "" {
		state = Online
	}
	if err := checkState(state); err != nil {
		return nil, err
	}
	if s.NoPresence || state == Offline {
		return func() {}, nil
	}
	s.updatePresence(user, func(p *presenceOf) {
		if p.State != state {
			p.State, p.LastActive = state, time.Now()
		}
		p.syncing++
		p.lastSync = time.Now()
	})
	return func() {
		s.presence.mu.Lock()
		defer s.presence.mu.Unlock()
		if p := s.presence.users[user]; p != nil {
			p.syncing--
			p.lastSync = time.Now()
		}
	}, nil
}

// Active notes that a user did something.
func (s *Service) Active(user id.UserID) {
	if s.NoPresence {
		return
	}
	s.presence.mu.Lock()
	defer s.presence.mu.Unlock()
	if p := s.presence.users[user]; p != nil {
		p.LastActive = time.Now()
	}
}

// updatePresence changes the presence of a user; what others would see differently is announced.
func (s *Service) updatePresence(user id.UserID, change func(*presenceOf)) {
	if s.NoPresence {
		return
	}
	s.presence.mu.Lock()
	defer s.presence.mu.Unlock()
	p := s.presence.users[user]
	if p == nil {
		if len(s.presence.users) >= maxPresent && !s.presence.forget() {
			return
		}
		p = &presenceOf{Status: Status{User: user, State: Offline}}
		s.presence.users[user] = p
	}
	state, message := p.State, p.Message
	change(p)
	if p.State != state || p.Message != message {
		s.presenceChanged(p)
	}
}

// presenceChanged is called under the lock.
func (s *Service) presenceChanged(p *presenceOf) {
	x := &s.presence
	p.changed = s.volatile.Add(1)
	x.latest = p.changed
	x.recent = append(x.recent, presenceChange{p.changed, p.User})
	if len(x.recent) > 2*keptPresence {
		cut := len(x.recent) - keptPresence
		x.floor = x.recent[cut-1].at
		x.recent = slices.Clone(x.recent[cut:])
	}
	s.tellOf(p)
}

// tellOf has those concerned told of a user. It is called under the lock.
func (s *Service) tellOf(p *presenceOf) {
	x := &s.presence
	x.pending[p.User], p.told = true, time.Now()
	select {
	case x.nudge <- struct{}{}:
	default:
	}
}

// forget drops users who are offline; false if there are none.
func (x *presence) forget() bool {
	before := len(x.users)
	maps.DeleteFunc(x.users, func(_ id.UserID, p *presenceOf) bool { return p.State == Offline && p.syncing == 0 })
	return len(x.users) < before
}

// Presence is the presence of a user; false if nothing is known of it.
func (s *Service) Presence(user id.UserID) (Status, bool) {
	s.presence.mu.Lock()
	defer s.presence.mu.Unlock()
	p := s.presence.users[user]
	if p == nil {
		return Status{User: user, State: Offline}, false
	}
	return p.status(), true
}

func (p *presenceOf) status() Status {
	out := p.Status
	out.CurrentlyActive = out.State == Online && (p.syncing > 0 || time.Since(out.LastActive) < activeFor)
	return out
}

// PresenceSince lists who changed behind a volatile position, with what they are now.
func (s *Service) PresenceSince(since int64) []Status {
	s.presence.mu.Lock()
	defer s.presence.mu.Unlock()
	x := &s.presence
	if x.latest <= since {
		return nil
	}
	var out []Status
	if since < x.floor {
		for _, p := range x.users {
			if p.changed > since {
				out = append(out, p.status())
			}
		}
		return out
	}
	from, _ := slices.BinarySearchFunc(x.recent, since+1, func(c presenceChange, at int64) int { return int(c.at - at) })
	for _, c := range x.recent[from:] {
		if p := x.users[c.user]; p != nil && p.changed == c.at {
			out = append(out, p.status())
		}
	}
	return out
}

// Run announces changes of presence and ends the presence of those who are gone, until the context ends.
func (s *Service) Run(ctx context.Context) {
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-check.C:
			s.endPresence(time.Now())
		case <-s.presence.nudge:
			wait := time.NewTimer(announceEvery)
			select {
			case <-ctx.Done():
				wait.Stop()
				return
			case <-wait.C:
			}
			if err := s.announce(ctx); err != nil && ctx.Err() == nil {
				s.Log.Warn("cannot announce presence", "err", err)
			}
		}
	}
}

// endPresence makes users offline who have not synced, or of whom nothing was heard, for a while.
func (s *Service) endPresence(now time.Time) {
	s.presence.mu.Lock()
	defer s.presence.mu.Unlock()
	for user, p := range s.presence.users {
		after, local := remoteFor, user.Server() == s.Server
		if local {
			after = offlineAfter
		}
		switch {
		case p.State == Offline:
		case p.syncing == 0 && now.Sub(p.lastSync) > after:
			p.State = Offline
			s.presenceChanged(p)
		case local && now.Sub(p.told) > repeatEvery:
			s.tellOf(p)
		}
	}
}

// announce wakes the local users, and tells the servers, that share a room with someone who changed.
func (s *Service) announce(ctx context.Context) error {
	s.presence.mu.Lock()
	pending := s.presence.pending
	s.presence.pending = map[id.UserID]bool{}
	s.presence.mu.Unlock()
	wake := map[id.UserID]bool{}
	push := map[id.ServerName][]any{}
	for user := range pending {
		var sharing []id.UserID
		err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
			sharing, err = tx.Memberships.Sharing(user)
			return err
		})
		if err != nil {
			return fmt.Errorf("find who shares a room with %s: %w", user, err)
		}
		status, _ := s.Presence(user)
		content := status.Content()
		content["user_id"] = user
		told := map[id.ServerName]bool{s.Server: true}
		wake[user] = true
		for _, other := range sharing {
			server := other.Server()
			if server == s.Server {
				wake[other] = true
			} else if user.Server() == s.Server && !told[server] {
				told[server] = true
				push[server] = append(push[server], content)
			}
		}
	}
	s.Store.Hub.Wake(slices.Collect(maps.Keys(wake))...)
	if s.SendEDU == nil {
		return nil
	}
	for server, list := range push {
		for part := range slices.Chunk(list, maxPushed) {
			raw, err := newEDU("m.presence", map[string]any{"push": part})
			if err != nil {
				return err
			}
			s.SendEDU([]id.ServerName{server}, raw)
		}
	}
	return nil
}

// ReceivePresence takes in an m.presence of another server (Server-Server API, "Presence"). Users who share no room with
// anyone here are left out.
func (s *Service) ReceivePresence(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	if s.NoPresence {
		return nil
	}
	var in struct {
		Push []struct {
			User          id.UserID `json:"user_id"`
			State         string    `json:"presence"`
			Message       string    `json:"status_msg"`
			LastActiveAgo int64     `json:"last_active_ago"`
		} `json:"push"`
	}
	if err := json.Unmarshal(content, &in); err != nil {
		return fmt.Errorf("%w: m.presence: %w", ErrInvalid, err)
	}
	if len(in.Push) > maxPushed {
		return fmt.Errorf("%w: m.presence: more than %d users", ErrInvalid, maxPushed)
	}
	var users []id.UserID
	for _, p := range in.Push {
		if p.User.Server() == origin && checkState(p.State) == nil && len(p.Message) <= maxStatus {
			users = append(users, p.User)
		}
	}
	if len(users) == 0 {
		return nil
	}
	var followed map[id.UserID]bool
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		followed, err = tx.DeviceLists.Followed(users)
		return err
	})
	if err != nil {
		return fmt.Errorf("m.presence of %s: %w", origin, err)
	}
	for _, in := range in.Push {
		if !followed[in.User] || !slices.Contains(users, in.User) || in.LastActiveAgo < 0 {
			continue
		}
		s.updatePresence(in.User, func(p *presenceOf) {
			p.State, p.Message, p.lastSync = in.State, in.Message, time.Now()
			p.LastActive = time.Now().Add(-time.Duration(min(in.LastActiveAgo, 1<<40)) * time.Millisecond)
		})
	}
	return nil
}
