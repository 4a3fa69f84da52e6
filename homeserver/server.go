package homeserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/federation"
	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/federation/sender"
	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/clientsync"
	"github.com/securecomm/securecomm/homeserver/directory"
	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/media"
	"github.com/securecomm/securecomm/homeserver/push"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

// ErrInUse says that another process has the embedded database open. Each would hear nothing of what the other writes.
var ErrInUse = errors.New("another process uses it")

// Server is a whole homeserver.
type Server struct {
	Config    *config.Config
	Log       *slog.Logger
	Store     *store.DB
	Key       sign.Key
	Rooms     *room.Engine
	Account   *account.Service
	Directory *directory.Service
	Keys      *keys.Service
	Media     *media.Service
	Push      *push.Service
	Timeline  *timeline.Service
	Sync      *clientsync.Engine
	Ephemeral *ephemeral.Service
	Sender    *sender.Sender // nil if the server does not federate
	// Client and Federation answer the two APIs and whatever else their listeners serve.
	Client, Federation http.Handler

	metrics *metrics
	probe   probe

	certificates atomic.Pointer[certificates] // those that Run serves
	federation   *federation.API              // nil if the server does not federate
	outbound     *client.Client
	lock         *os.File // kept open, so that no other process opens the embedded database; nil with PostgreSQL
	stop         context.CancelFunc
	running      sync.WaitGroup
	background   context.Context // ends with the server
	draining     context.Context // ends when requests that wait for something to happen have to give up
	drain        context.CancelFunc
}

// New opens the database and builds all parts. The caller closes the server. Errors: ErrInUse.
func New(ctx context.Context, c *config.Config, log *slog.Logger) (*Server, error) {
	log = store.Quiet(log)
	s := &Server{Config: c, Log: log, metrics: newMetrics()}
	if err := os.MkdirAll(c.Server.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	if info, err := os.Stat(c.Server.DataDir); err == nil && info.Mode().Perm()&0o077 != 0 {
		log.Warn("other users of this machine can look into the data folder; make it mode 0700", "folder", c.Server.DataDir, "mode", info.Mode().Perm())
	}
	var err error
	address, embedded := strings.CutPrefix(c.DatabaseURL(), "sqlite://")
	if embedded {
		if s.lock, err = lock(address + ".lock"); err != nil {
			return nil, fmt.Errorf("the database %s: %w", address, err)
		}
		if err := checkFile(c, address); err != nil {
			return nil, errors.Join(err, s.unlock())
		}
	}
	s.Store, err = store.Open(ctx, store.Options{URL: address, Readers: c.Database.Readers, Alone: true, Log: log})
	if errors.Is(err, store.ErrOwned) {
		err = fmt.Errorf("the database: %w", ErrInUse)
	}
	if err != nil {
		return nil, errors.Join(err, s.unlock())
	}
	if err := s.claim(ctx); err != nil {
		return nil, errors.Join(err, s.Store.Close(), s.unlock())
	}
	s.draining, s.drain = context.WithCancel(context.Background())
	s.background, s.stop = context.WithCancel(context.Background())
	if err := s.build(); err != nil {
		s.drain()
		s.stop()
		if s.outbound != nil {
			s.outbound.Close()
		}
		return nil, errors.Join(err, s.Store.Close(), s.unlock())
	}
	s.expose()
	if err := s.start(s.background); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// start begins what runs in the background until Close.
func (s *Server) start(ctx context.Context) error {
	s.running.Go(func() { s.Account.Run(ctx) })
	s.running.Go(func() { s.Media.Run(ctx) })
	s.running.Go(func() { s.Ephemeral.Run(ctx) })
	s.running.Go(func() { s.prune(ctx) })
	s.running.Go(func() { s.collect(ctx) })
	s.running.Go(func() { s.Rooms.RunInvites(ctx) })
	if s.Sender == nil {
		return nil
	}
	return s.Sender.Start(ctx)
}

// Close ends what runs in the background and closes the database.
func (s *Server) Close() error {
	s.drain()
	s.stop()
	if s.federation != nil {
		s.federation.Close()
		s.Sender.Close()
		s.outbound.Close()
	}
	s.running.Wait()
	return errors.Join(s.Store.Close(), s.unlock())
}

// unlock lets other processes open the embedded database.
func (s *Server) unlock() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

// showProfile brings fields of a user's profile into a room that the user is in.
func (s *Server) showProfile(ctx context.Context, roomID id.RoomID, shown account.Shown) (size int, err error) {
	size, err = s.Rooms.ShowProfile(ctx, roomID, shown.User, room.ProfileOf(shown.Profile), shown.Fields...)
	if errors.Is(err, room.ErrForbidden) {
		err = nil
	}
	return size, err
}

// shown sees to it that a room which a user comes into does not keep a profile that was changed meanwhile.
func (s *Server) shown(tx *store.Tx, user id.UserID, roomID id.RoomID, shown room.Profile) error {
	fields, err := tx.Profiles.Get(user)
	if err != nil || room.ProfileOf(fields) == shown {
		return err
	}
	return s.Account.ShowIn(tx, user, roomID)
}

// leaveAll takes a user who is gone for good out of all rooms and invites, and forgets them.
func (s *Server) leaveAll(ctx context.Context, user id.UserID) error {
	var rooms []store.Membership
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		rooms, err = tx.Memberships.ByUser(user, "join", "invite", "knock")
		return err
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range rooms {
		if err := s.Rooms.Leave(ctx, room.Change{Room: m.RoomID, Sender: user}); err != nil && !errors.Is(err, room.ErrForbidden) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, s.Store.Prune(ctx, func(tx *store.Tx, limit int) (int64, error) { return tx.Memberships.ForgetLeft(user, limit) }))
	return errors.Join(errs...)
}
