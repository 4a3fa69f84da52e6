package homeserver

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/securecomm/securecomm/clientapi"
	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/federation"
	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/federation/discovery"
	"github.com/securecomm/securecomm/federation/keyring"
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
	"github.com/securecomm/securecomm/homeserver/timeline"
)

// build fills the parts, each with those before it.
func (s *Server) build() error {
	c := s.Config
	name := c.Server.Name
	guard := &discovery.Guard{Allow: c.Federation.AllowNetworks}
	s.Rooms = &room.Engine{Store: s.Store, Server: name, Key: s.Key, Log: s.Log, DefaultVersion: id.RoomVersion(c.Rooms.DefaultVersion)}
	s.Directory = &directory.Service{Store: s.Store, Server: name, Servers: s.Rooms.Servers, Known: s.Rooms.Known, MayNameAliases: s.Rooms.MayNameAliases, ServerAllowed: s.Rooms.ServerAllowed}
	s.Keys = &keys.Service{Store: s.Store, Server: name, Log: s.Log}
	s.Rooms.Joined = s.Keys.Joined
	s.Media = &media.Service{
		Server: name, Store: s.Store, Dir: c.MediaDir(), Log: s.Log,
		MaxUpload: int64(c.Media.MaxUpload), MaxRemote: int64(c.Media.RemoteMax), KeepFree: int64(c.Media.KeepFree), MaxPixels: c.Media.MaxPixels,
		UserQuota: int64(c.Media.UserQuota), CacheMax: int64(c.Media.CacheMax),
		Unauthenticated: c.Media.Unauthenticated,
	}
	if c.Media.Previews {
		web := &discovery.Guard{Allow: c.Media.PreviewNetworks}
		s.Media.Web = &http.Client{Transport: &http.Transport{DialContext: web.DialContext, DisableKeepAlives: true}, Timeout: previewTimeout}
	}
	s.Push = push.New(s.Store, s.Log)
	s.Rooms.Followed, s.Rooms.Shown = s.followed, s.shown
	s.Timeline = &timeline.Service{Store: s.Store, Log: s.Log, Peers: s.Rooms.Peers}
	volatile := ephemeral.Options{Store: s.Store, Server: name, Rooms: s.Rooms, Log: s.Log}
	accounts := account.Options{
		DB: s.Store, Server: name, Log: s.Log,
		Registration: account.Registration{
			Open: c.Registration.Enabled, RequireToken: c.Registration.RequireToken, SharedSecret: string(c.Registration.SharedSecret),
		},
		MinPassword: c.Password.MinLength, TokenLifetime: c.Session.AccessTokenLifetime, RefreshLifetime: c.Session.RefreshTokenLifetime,
		DevicesChanging: s.Keys.DevicesChanging, DevicesEnding: s.Keys.EmptyDevices, Erased: s.Keys.UserDeleted,
		ProfileChanged: s.showProfile, Deactivated: s.leaveAll,
	}
	if c.Limits.Enabled {
		accounts.ProfileRate = account.Rate(c.Limits.Message.PerUser)
	}
	if c.Federation.Enabled {
		remote, err := s.buildOutbound(guard)
		if err != nil {
			return err
		}
		s.Rooms.Remote, s.Keys.Remote, s.Media.Remote, s.Directory.Remote = remote, remote, remote, remote
		accounts.RemoteProfile = remote.Profile
		s.Timeline.Backfill, s.Timeline.AskTime = s.Rooms.Backfill, remote.NearestEvent
		volatile.SendEDU = func(servers []id.ServerName, edu []byte) { s.Sender.SendEphemeral(servers, edu) }
	}
	s.Account = account.New(accounts)
	s.Ephemeral = ephemeral.New(volatile)
	s.Sync = clientsync.New(clientsync.Options{Store: s.Store, Server: name, Keys: s.Keys, Ephemeral: s.Ephemeral, Log: s.Log, Draining: s.draining.Done()})
	var others http.Handler
	if c.Federation.Enabled {
		others = s.buildFederation()
		s.Federation = s.around(others, nil)
	}
	s.Client = s.around(s.buildClientAPI(), others)
	return nil
}

// previewTimeout bounds the fetching of a page for a preview.
const previewTimeout = 20 * time.Second

func (s *Server) buildClientAPI() http.Handler {
	c := s.Config
	api := &clientapi.API{
		Server: c.Server.Name, Store: s.Store, Log: s.Log, Limits: limitsOf(c.Limits),
		Account: s.Account, Rooms: s.Rooms, Directory: s.Directory, Keys: s.Keys, Media: s.Media, Push: s.Push, Timeline: s.Timeline, Ephemeral: s.Ephemeral, Sync: s.Sync,
		Discovery: clientapi.Discovery{
			BaseURL: c.BaseURL(), Federation: c.WellKnown.Server, SupportEmail: c.WellKnown.SupportEmail, SupportPage: c.WellKnown.SupportPage,
		},
		Observe: s.metrics.observe, TrustedProxies: c.Listen.TrustedProxies,
	}
	return api.Handler()
}

// buildOutbound makes what asks other servers.
func (s *Server) buildOutbound(guard *discovery.Guard) (*federation.Remote, error) {
	c := s.Config
	roots, err := c.Federation.RootCAs()
	if err != nil {
		return nil, fmt.Errorf("federation.ca_files: %w", err)
	}
	agent := "SecureComm/" + Version
	s.outbound = &client.Client{
		Server: c.Server.Name, Key: s.Key, RootCAs: roots, UserAgent: agent,
		Resolver: &discovery.Resolver{Guard: guard, RootCAs: roots, UserAgent: agent},
	}
	ring := &keyring.Keyring{
		Server: c.Server.Name, Key: s.Key, Store: s.Store, Client: s.outbound, Notaries: c.Federation.TrustedNotaries, Log: s.Log,
	}
	if err := checkOldKeys(c, s.Key); err != nil {
		return nil, err
	}
	for _, old := range c.Server.OldKeys {
		ring.OldKeys = append(ring.OldKeys, keyring.OldKey{ID: old.ID, Public: old.Public, Expired: old.Expired})
	}
	s.Sender = &sender.Sender{Store: s.Store, Client: s.outbound, Log: s.Log, Allows: c.Federation.Allows}
	s.outbound.Answered = s.Sender.Answered
	return &federation.Remote{Client: s.outbound, Keyring: ring, Allows: c.Federation.Allows, Settle: s.Sender.Settle}, nil
}

// buildFederation makes what answers other servers.
func (s *Server) buildFederation() http.Handler {
	c := s.Config
	s.federation = &federation.API{
		Server: c.Server.Name, Software: client.Version{Name: "SecureComm", Version: Version}, Store: s.Store,
		Keyring: s.Rooms.Remote.(*federation.Remote).Keyring, Rooms: s.Rooms, Account: s.Account, Keys: s.Keys,
		Directory: s.Directory, Media: s.Media, Ephemeral: s.Ephemeral, Log: s.Log, Allows: c.Federation.Allows, Woke: s.Sender.Woke,
		Observe: s.metrics.observe, SetAside: s.metrics.setAside.Inc, NearestEvent: s.Timeline.Nearest, Stranger: clientapi.NetworkOf(c.Listen.TrustedProxies),
	}
	if c.Limits.Enabled {
		s.federation.Rate = federation.Rate(c.Limits.Federation)
	}
	s.federation.Hierarchy = func(ctx context.Context, origin id.ServerName, room id.RoomID, suggestedOnly bool) (any, error) {
		return s.Directory.HierarchyFor(ctx, origin, room, suggestedOnly)
	}
	return s.federation.Handler()
}

func limitsOf(c config.Limits) clientapi.Limits {
	class := func(c config.Class) clientapi.Class {
		return clientapi.Class{PerUser: clientapi.Rate(c.PerUser), PerAddress: clientapi.Rate(c.PerAddress)}
	}
	return clientapi.Limits{
		Enabled: c.Enabled, Login: class(c.Login), Registration: class(c.Registration), Message: class(c.Message), Join: class(c.Join), Media: class(c.Media),
		Download: class(c.Download), Lookup: class(c.Lookup), Costly: class(c.Costly), Search: class(c.Search), Other: class(c.Other),
	}
}
