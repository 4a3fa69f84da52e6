package ephemeral

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
)

// ErrInvalid is wrapped by refusals of requests and data units that make no sense.
var ErrInvalid = errors.New("invalid")

// Options are what a Service needs.
type Options struct {
	Store  *store.DB
	Server id.ServerName
	Rooms  *room.Engine
	Log    *slog.Logger
	// SendEDU delivers a data unit, {"edu_type": …, "content": …}, to servers if they can be reached; nil if there are none.
	SendEDU func(servers []id.ServerName, edu []byte)
	// NoPresence switches presence off: everyone is offline, and nobody is told.
	NoPresence bool
}

// Service does what concerns typing, receipts and presence. All methods may be called concurrently.
type Service struct {
	Options

	volatile atomic.Int64
	typing   typing
	presence presence
}

// New makes a Service. Run has to be started for presence to be announced and to end.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Service{Options: o}
	// A process that is started later counts on where this one will have stopped, so that old tokens mean something.
	s.volatile.Store(time.Now().UnixMilli())
	s.typing.rooms = map[id.RoomID]*typingRoom{}
	s.presence.users = map[id.UserID]*presenceOf{}
	s.presence.pending = map[id.UserID]bool{}
	s.presence.nudge = make(chan struct{}, 1)
	return s
}

// Volatile is where typing and presence stand: it grows with every change of them.
func (s *Service) Volatile() int64 { return s.volatile.Load() }

// joined refuses users who are not joined to a room.
func (s *Service) joined(ctx context.Context, roomID id.RoomID, user id.UserID) error {
	if user.Server() == s.Server {
		members, err := s.Rooms.LocalMembers(ctx, roomID)
		if err != nil {
			return err
		}
		if slices.Contains(members, user) {
			return nil
		}
		return fmt.Errorf("%w: you are not in the room", room.ErrForbidden)
	}
	membership, _, err := s.Rooms.MembershipOf(ctx, roomID, user)
	if err == nil && membership != "join" {
		err = fmt.Errorf("%w: %s is not in the room", room.ErrForbidden, user)
	}
	return err
}

// others are the other servers in a room.
func (s *Service) others(ctx context.Context, roomID id.RoomID) ([]id.ServerName, error) {
	servers, err := s.Rooms.Servers(ctx, roomID)
	return slices.DeleteFunc(servers, func(n id.ServerName) bool { return n == s.Server }), err
}

func newEDU(typ string, content any) ([]byte, error) {
	raw, err := json.Marshal(map[string]any{"edu_type": typ, "content": content})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", typ, err)
	}
	return raw, nil
}

// send delivers a data unit to the other servers in a room.
func (s *Service) send(ctx context.Context, roomID id.RoomID, typ string, content any) error {
	if s.SendEDU == nil {
		return nil
	}
	servers, err := s.others(ctx, roomID)
	if err != nil || len(servers) == 0 {
		return err
	}
	raw, err := newEDU(typ, content)
	if err == nil {
		s.SendEDU(servers, raw)
	}
	return err
}
