// Package directory finds rooms: by their aliases, in the lists of public rooms, and within spaces.
//
// The client API and the federation API call it. It asks other servers through a Remote. It knows the store, but
// nothing of HTTP, and it changes no rooms: an m.room.canonical_alias is the caller's to send.
package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Errors of the directory.
var (
	ErrTaken      = errors.New("the room alias is taken")
	ErrNotFound   = errors.New("there is no such room alias")
	ErrForbidden  = errors.New("not allowed")
	ErrOtherAlias = errors.New("the room alias belongs to another server")
	ErrTooMany    = errors.New("the room has too many aliases")
)

// maxAliases is how many aliases a room may have here.
const maxAliases = 200

// Remote is what the directory asks of other servers.
type Remote interface {
	// ResolveAlias asks the alias's server. ErrNotFound if there is no such alias.
	ResolveAlias(ctx context.Context, alias id.RoomAlias) (Found, error)
	// PublicRooms asks another server for its list.
	PublicRooms(ctx context.Context, server id.ServerName, q Query) (*Page, error)
	// Hierarchy asks another server for a room and its children. The answer is of that room, but not looked through yet.
	// Errors: those of room.Remote.
	Hierarchy(ctx context.Context, server id.ServerName, room id.RoomID, suggestedOnly bool) (*Level, error)
}

// Service is the directory of one server.
type Service struct {
	Store  *store.DB
	Server id.ServerName
	// Remote is nil if the server does not federate.
	Remote Remote
	// Servers tells which servers are in a room.
	Servers func(ctx context.Context, room id.RoomID) ([]id.ServerName, error)
	// Known tells which other servers may know a room that this server is not in, for a user; nil if nobody can tell.
	Known func(ctx context.Context, room id.RoomID, user id.UserID) ([]id.ServerName, error)
	// MayNameAliases says whether a user's power level allows to send m.room.canonical_alias.
	MayNameAliases func(ctx context.Context, room id.RoomID, user id.UserID) (bool, error)
	// ServerAllowed says whether a room's access list lets a server take part; nil lets all.
	ServerAllowed func(ctx context.Context, room id.RoomID, server id.ServerName) (bool, error)

	mu     sync.Mutex
	levels map[levelKey]keptLevel // what other servers told of rooms lately
}

// Found is where an alias leads.
type Found struct {
	Room    id.RoomID
	Servers []id.ServerName
}

// Resolve finds the room behind an alias of any server.
func (s *Service) Resolve(ctx context.Context, alias id.RoomAlias) (Found, error) {
	if alias.Server() != s.Server {
		if s.Remote == nil {
			return Found{}, fmt.Errorf("%w: %s", ErrNotFound, alias)
		}
		return s.Remote.ResolveAlias(ctx, alias)
	}
	return s.ResolveLocal(ctx, alias)
}

// ResolveLocal finds the room behind an alias of this server.
func (s *Service) ResolveLocal(ctx context.Context, alias id.RoomAlias) (Found, error) {
	var a *store.Alias
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		a, err = tx.Aliases.Get(alias)
		return err
	})
	if err != nil {
		return Found{}, err
	}
	if a == nil {
		return Found{}, fmt.Errorf("%w: %s", ErrNotFound, alias)
	}
	servers, err := s.Servers(ctx, a.Room)
	if err != nil || len(servers) == 0 {
		servers = []id.ServerName{s.Server}
	}
	return Found{a.Room, servers}, nil
}

// Claim gives an alias to a new room, in the transaction that makes it.
func (s *Service) Claim(tx *store.Tx, alias id.RoomAlias, room id.RoomID, user id.UserID) error {
	if alias.Server() != s.Server {
		return fmt.Errorf("%w: %s", ErrOtherAlias, alias)
	}
	n, err := tx.Aliases.Count(room)
	if err != nil {
		return err
	}
	if n >= maxAliases {
		return fmt.Errorf("%w: at most %d", ErrTooMany, maxAliases)
	}
	fresh, err := tx.Aliases.Insert(store.Alias{Alias: alias, Room: room, Creator: user})
	if err == nil && !fresh {
		err = fmt.Errorf("%w: %s", ErrTaken, alias)
	}
	return err
}

// Put gives an alias to a room.
func (s *Service) Put(ctx context.Context, alias id.RoomAlias, room id.RoomID, user id.UserID) error {
	return s.Store.Update(ctx, func(tx *store.Tx) error { return s.Claim(tx, alias, room, user) })
}

// Delete removes an alias: its creator may, and who may name aliases in the room.
func (s *Service) Delete(ctx context.Context, alias id.RoomAlias, user id.UserID) (id.RoomID, error) {
	var a *store.Alias
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		a, err = tx.Aliases.Get(alias)
		return err
	})
	if err != nil {
		return "", err
	}
	if a == nil {
		return "", fmt.Errorf("%w: %s", ErrNotFound, alias)
	}
	if a.Creator != user {
		may, err := s.MayNameAliases(ctx, a.Room, user)
		if err != nil {
			return "", err
		}
		if !may {
			return "", fmt.Errorf("%w: the room alias was made by somebody else", ErrForbidden)
		}
	}
	return a.Room, s.Store.Update(ctx, func(tx *store.Tx) error { return tx.Aliases.Delete(alias) })
}

// Aliases lists the aliases of a room on this server.
func (s *Service) Aliases(ctx context.Context, room id.RoomID) ([]id.RoomAlias, error) {
	out := []id.RoomAlias{}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		list, err := tx.Aliases.OfRoom(room)
		out = append(out, list...)
		return err
	})
	return out, err
}

// Named are the aliases that a room's m.room.canonical_alias names now.
func (s *Service) Named(ctx context.Context, roomID id.RoomID) (map[id.RoomAlias]bool, error) {
	out := map[id.RoomAlias]bool{}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		room, err := tx.Rooms.ByID(roomID)
		if err != nil || room == nil {
			return err
		}
		named, err := currentState(tx, room, "m.room.canonical_alias")
		if err != nil || named == nil {
			return err
		}
		var content struct {
			Alias id.RoomAlias   `json:"alias"`
			Alt   []id.RoomAlias `json:"alt_aliases"`
		}
		if json.Unmarshal(named.Content, &content) != nil {
			return nil // names nothing
		}
		for _, a := range append(content.Alt, content.Alias) {
			out[a] = true
		}
		return nil
	})
	return out, err
}
