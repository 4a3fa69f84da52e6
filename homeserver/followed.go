package homeserver

import (
	"context"

	"github.com/securecomm/securecomm/homeserver/id"
)

// followed gives a user who came into the successor of a room the push rules and tags that the user had for the old
// one (Client-Server API, "Room Upgrades").
func (s *Server) followed(ctx context.Context, user id.UserID, from, to id.RoomID) error {
	if err := s.Push.CopyRoom(ctx, []id.UserID{user}, from, to); err != nil {
		return err
	}
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
