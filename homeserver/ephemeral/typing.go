package ephemeral

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
)

const (
	defaultTyping = 30 * time.Second
	maxTyping     = 2 * time.Minute
	// maxTypists bounds the users who are shown as typing in one room.
	maxTypists = 500
	// keptRooms is how many rooms are remembered before those where nobody types any longer are forgotten.
	keptRooms  = 1 << 10
	typingLife = 5 * time.Minute
)

type typing struct {
	latest atomic.Int64 // volatile position of the last change
	mu     sync.Mutex
	rooms  map[id.RoomID]*typingRoom
}

type typingRoom struct {
	users   map[id.UserID]time.Time // until when
	changed int64                   // volatile position
	at      time.Time               // of the last change
	timer   *time.Timer
}

// RoomTyping is who types in a room.
type RoomTyping struct {
	Room  id.RoomID
	Users []id.UserID
}

// SetTyping notes that a local user types, or no longer does, and tells the room's members. A timeout of 0 is the usual one.
func (s *Service) SetTyping(ctx context.Context, roomID id.RoomID, user id.UserID, on bool, timeout time.Duration) error {
	if err := s.joined(ctx, roomID, user); err != nil {
		return err
	}
	s.Active(user)
	changed, err := s.setTyping(ctx, roomID, user, on, timeout)
	if err != nil || !changed && !on {
		return err
	}
	return s.send(ctx, roomID, "m.typing", map[string]any{"room_id": roomID, "user_id": user, "typing": on})
}

// setTyping says whether that made a difference.
func (s *Service) setTyping(ctx context.Context, roomID id.RoomID, user id.UserID, on bool, timeout time.Duration) (bool, error) {
	if timeout <= 0 {
		timeout = defaultTyping
	}
	members, err := s.Rooms.LocalMembers(ctx, roomID)
	if err != nil || len(members) == 0 { // who was there when this server left may say so for long
		return false, err
	}
	t := &s.typing
	t.mu.Lock()
	r := t.rooms[roomID]
	if r == nil {
		if !on {
			t.mu.Unlock()
			return false, nil
		}
		t.forget()
		r = &typingRoom{users: map[id.UserID]time.Time{}}
		t.rooms[roomID] = r
	}
	_, was := r.users[user]
	switch {
	case on && (was || len(r.users) < maxTypists):
		r.users[user] = time.Now().Add(min(timeout, maxTyping))
	case !on:
		delete(r.users, user)
	}
	_, is := r.users[user]
	if was != is {
		s.typingChanged(r)
	}
	s.schedule(roomID, r)
	t.mu.Unlock()
	if was != is {
		s.Store.Hub.Wake(members...)
	}
	return was != is, nil
}

func (s *Service) typingChanged(r *typingRoom) {
	r.changed, r.at = s.volatile.Add(1), time.Now()
	s.typing.latest.Store(r.changed)
}

// schedule sets a room's timer to the moment when the first of its users has typed long enough.
func (s *Service) schedule(roomID id.RoomID, r *typingRoom) {
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	var first time.Time
	for _, until := range r.users {
		if first.IsZero() || until.Before(first) {
			first = until
		}
	}
	if !first.IsZero() {
		r.timer = time.AfterFunc(time.Until(first), func() { s.expire(roomID) })
	}
}

func (s *Service) expire(roomID id.RoomID) {
	now := time.Now()
	s.typing.mu.Lock()
	r := s.typing.rooms[roomID]
	if r == nil {
		s.typing.mu.Unlock()
		return
	}
	before := len(r.users)
	for user, until := range r.users {
		if !until.After(now) {
			delete(r.users, user)
		}
	}
	changed := len(r.users) != before
	if changed {
		s.typingChanged(r)
	}
	s.schedule(roomID, r)
	s.typing.mu.Unlock()
	if !changed {
		return
	}
	members, err := s.Rooms.LocalMembers(context.Background(), roomID)
	if err != nil && !errors.Is(err, room.ErrNotFound) {
		s.Log.Warn("cannot tell a room that someone stopped typing", "room", roomID, "err", err)
	}
	s.Store.Hub.Wake(members...)
}

// forget drops rooms where nobody has typed for a while, once there are many.
func (t *typing) forget() {
	if len(t.rooms) < keptRooms {
		return
	}
	for name, r := range t.rooms {
		if len(r.users) == 0 && time.Since(r.at) > typingLife {
			delete(t.rooms, name)
		}
	}
}

// TypingSince lists the rooms, of those that wanted accepts, in which the users who type have changed behind a volatile position.
func (s *Service) TypingSince(since int64, wanted func(id.RoomID) bool) []RoomTyping {
	if s.typing.latest.Load() <= since {
		return nil
	}
	s.typing.mu.Lock()
	defer s.typing.mu.Unlock()
	var out []RoomTyping
	for name, r := range s.typing.rooms {
		if r.changed > since && wanted(name) {
			out = append(out, RoomTyping{name, r.list()})
		}
	}
	return out
}

// Typing lists who types in a room.
func (s *Service) Typing(roomID id.RoomID) []id.UserID {
	s.typing.mu.Lock()
	defer s.typing.mu.Unlock()
	if r := s.typing.rooms[roomID]; r != nil {
		return r.list()
	}
	return nil
}

func (r *typingRoom) list() []id.UserID {
	out := make([]id.UserID, 0, len(r.users))
	for u := range r.users {
		out = append(out, u)
	}
	slices.Sort(out)
	return out
}

// ReceiveTyping takes in an m.typing of another server (Server-Server API, "Typing Notifications").
func (s *Service) ReceiveTyping(ctx context.Context, origin id.ServerName, content json.RawMessage) error {
	var in struct {
		Room   id.RoomID `json:"room_id"`
		User   id.UserID `json:"user_id"`
		Typing bool      `json:"typing"`
	}
	if err := json.Unmarshal(content, &in); err != nil {
		return fmt.Errorf("%w: m.typing: %w", ErrInvalid, err)
	}
	if in.User.Server() != origin {
		return fmt.Errorf("%w: m.typing of a user of another server", ErrInvalid)
	}
	if err := s.joined(ctx, in.Room, in.User); err != nil {
		return err
	}
	_, err := s.setTyping(ctx, in.Room, in.User, in.Typing, defaultTyping)
	return err
}
