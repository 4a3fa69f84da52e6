package homeserver

import (
	"context"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// followed gives a user who came into the successor of a room the push rules and tags that the user had for the old
// one (Client-Server API, "Room Upgrades"). If the old room says that it is replaced, the new one also is a direct chat
// where that was one, and gets its aliases and place in the public room list here: where the room was upgraded, another
// server has seen to its own.
func (s *Server) followed(ctx context.Context, user id.UserID, from, to id.RoomID, replaced bool) error {
	if err := s.Push.CopyRoom(ctx, []id.UserID{user}, from, to); err != nil {
		return err
	}
	if err := s.copyTags(ctx, user, from, to); err != nil || !replaced {
		return err
	}
	if err := s.Account.AddDirect(ctx, user, from, to); err != nil {
		return err
	}
	return s.Store.Update(ctx, func(tx *store.Tx) error {
		old, err := tx.Rooms.ByID(from)
		if err != nil || old == nil {
			return err
		}
		next, err := tx.Rooms.ByID(to)
		if err != nil || next == nil {
			return err
		}
		return tx.Rooms.Succeed(old, next)
	})
}

func (s *Server) copyTags(ctx context.Context, user id.UserID, from, to id.RoomID) error {
	old, err := s.Account.Tags(ctx, user, from)
	if err != nil {
		return err
	}
	tags, err := s.Account.Tags(ctx, user, to)
	if err != nil || len(tags) > 0 {
		return err
	}
	for tag, content := range old {
		if err := s.Account.SetTag(ctx, user, to, tag, content); err != nil {
			return err
		}
	}
	return nil
}
