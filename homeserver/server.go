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

	"github.com/labstack/echo/v4"

	"github.com/securecomm/securecomm/clientapi"
	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/directory"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Server is a whole homeserver.
type Server struct {
	Config    *config.Config
	Log       *slog.Logger
	Store     *store.DB
	Key       sign.Key
	Rooms     *room.Engine
	Account   *account.Service
	Directory *directory.Service
	// Client and Federation answer the two APIs and whatever else their listeners serve.
	Client, Federation http.Handler

	metrics  *metrics
	stop     context.CancelFunc
	running  sync.WaitGroup
	draining context.Context // ends when requests that wait for something to happen have to give up
	drain    context.CancelFunc
}

// New opens the database and builds all parts. The caller closes the server.
func New(ctx context.Context, c *config.Config, log *slog.Logger) (*Server, error) {
	s := &Server{Config: c, Log: log, metrics: newMetrics()}
	if err := os.MkdirAll(c.Server.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	var err error
	if s.Key, err = sign.LoadOrCreate(c.SigningKeyFile()); err != nil {
		return nil, fmt.Errorf("the server's signing key: %w", err)
	}
	address := strings.TrimPrefix(c.DatabaseURL(), "sqlite://")
	if s.Store, err = store.Open(ctx, store.Options{URL: address, Readers: c.Database.Readers, Log: log}); err != nil {
		return nil, err
	}
	if err := s.claimDatabase(ctx); err != nil {
		return nil, errors.Join(err, s.Store.Close())
	}
	s.draining, s.drain = context.WithCancel(context.Background())
	s.build()
	background, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.start(background)
	return s, nil
}

// claimDatabase makes sure that a database stays with the server name that it began with: it is part of every
// user and room in it.
func (s *Server) claimDatabase(ctx context.Context) error {
	const fact = "server_name"
	var owner string
	err := s.Store.Update(ctx, func(tx *store.Tx) (err error) {
		if owner, err = tx.Fact(fact); err != nil || owner != "" {
			return err
		}
		owner = string(s.Config.Server.Name)
		return tx.SetFact(fact, owner)
	})
	if err == nil && owner != string(s.Config.Server.Name) {
		err = fmt.Errorf("the database belongs to the server %q, not to %q: set server.name to that, or use another database", owner, s.Config.Server.Name)
	}
	return err
}

// build fills the parts, each with those before it.
func (s *Server) build() {
	c := s.Config
	name := c.Server.Name
	s.Rooms = &room.Engine{Store: s.Store, Server: name, Key: s.Key, Log: s.Log, DefaultVersion: id.RoomVersion(c.Rooms.DefaultVersion)}
	s.Directory = &directory.Service{Store: s.Store, Server: name, Servers: s.Rooms.Servers, MayNameAliases: s.Rooms.MayNameAliases}
	s.Account = account.New(account.Options{
		DB: s.Store, Server: name, Log: s.Log,
		Registration: account.Registration{
			Open: c.Registration.Enabled, RequireToken: c.Registration.RequireToken, SharedSecret: string(c.Registration.SharedSecret),
		},
		MinPassword: c.Password.MinLength, TokenLifetime: c.Session.AccessTokenLifetime,
		ProfileChanged: s.showProfile, Deactivated: s.leaveAll,
	})
	client := &clientapi.API{
		Server: name, Store: s.Store, Log: s.Log, Limits: limitsOf(c.Limits), Account: s.Account, Rooms: s.Rooms, Directory: s.Directory,
		Discovery: clientapi.Discovery{
			BaseURL: c.BaseURL(), Federation: c.WellKnown.Server, SupportEmail: c.WellKnown.SupportEmail, SupportPage: c.WellKnown.SupportPage,
		},
	}
	e := s.echo()
	client.Register(e)
	s.Client = e
}

// echo makes a router with what both APIs share.
func (s *Server) echo() *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.IPExtractor = s.addressOf()
	e.Use(s.metrics.observe)
	e.GET("/health", s.health)
	if s.Config.Listen.Metrics == "" {
		e.GET("/metrics", s.guardMetrics(s.metrics.serve))
	}
	return e
}

// start begins what runs in the background until Close.
func (s *Server) start(ctx context.Context) {
	s.running.Go(func() { s.Account.Run(ctx) })
	s.running.Go(func() { s.prune(ctx) })
}

// Close ends what runs in the background and closes the database.
func (s *Server) Close() error {
	s.drain()
	s.stop()
	s.running.Wait()
	return s.Store.Close()
}

func (s *Server) health(c echo.Context) error {
	err := s.Store.View(c.Request().Context(), func(tx *store.Tx) error {
		_, err := tx.Position()
		return err
	})
	if err != nil {
		s.Log.Error("unhealthy", "err", err)
		return c.JSON(http.StatusServiceUnavailable, map[string]string{"status": "the database does not answer"})
	}
	return c.JSON(http.StatusOK, map[string]string{"status": "ok"})
}

func limitsOf(c config.Limits) clientapi.Limits {
	class := func(c config.Class) clientapi.Class {
		return clientapi.Class{PerUser: clientapi.Rate(c.PerUser), PerAddress: clientapi.Rate(c.PerAddress)}
	}
	return clientapi.Limits{
		Enabled: c.Enabled, Login: class(c.Login), Registration: class(c.Registration), Message: class(c.Message), Join: class(c.Join), Media: class(c.Media),
	}
}

// showProfile brings a user's new profile into all rooms that the user is in.
func (s *Server) showProfile(ctx context.Context, user id.UserID) error {
	var profile room.Profile
	var joined []store.Membership
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		fields, err := tx.Profiles.Get(user)
		if err != nil {
			return err
		}
		profile = room.ProfileOf(fields)
		joined, err = tx.Memberships.ByUser(user, "join")
		return err
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range joined {
		err := s.Rooms.SetMembership(ctx, room.Change{
			Room: m.RoomID, Sender: user, Target: user, Membership: "join", Profile: profile, Only: []string{"join"},
		})
		if err != nil && !errors.Is(err, room.ErrForbidden) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// leaveAll takes a user out of all rooms and invites.
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
	return errors.Join(errs...)
}
