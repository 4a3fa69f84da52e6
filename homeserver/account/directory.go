package account

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Found is a user that Search found. What is not known is empty.
type Found struct {
	User        id.UserID
	DisplayName string
	AvatarURL   string
}

const maxSearchTerm = 256

// Search finds users by their ID or display name: who shares a room with the searcher, or is in a
// public room. The answer is limited if there are more than limit.
func (s *Service) Search(ctx context.Context, searcher id.UserID, term string, limit int) (found []Found, limited bool, err error) {
	term = strings.ToLower(strings.TrimSpace(term))
	if len(term) > maxSearchTerm || checkText(term) != nil {
		return nil, false, fmt.Errorf("%w: a search term has at most %d bytes", ErrInvalidParam, maxSearchTerm)
	}
	if term == "" {
		return nil, false, nil
	}
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Profiles.Search(searcher, term, limit+1)
		if err != nil {
			return err
		}
		if limited = len(rows) > limit; limited {
			rows = rows[:limit]
		}
		for _, row := range rows {
			f, err := s.describe(tx, row)
			if err != nil {
				return err
			}
			found = append(found, f)
		}
		return nil
	})
	return found, limited, err
}

// describe adds the public name: of local users from the profile, of others from a room.
func (s *Service) describe(tx *store.Tx, row store.Found) (Found, error) {
	f := Found{User: row.User}
	if s.Owns(row.User) {
		profile, err := tx.Profiles.Get(row.User)
		if err != nil {
			return f, err
		}
		f.DisplayName, f.AvatarURL = text(profile[FieldDisplayName]), text(profile[FieldAvatarURL])
		return f, nil
	}
	events, err := tx.Events.ByNID(row.Event)
	if err != nil || len(events) == 0 || events[0] == nil {
		return f, err
	}
	var content map[string]json.RawMessage
	if json.Unmarshal(events[0].Content, &content) == nil {
		f.DisplayName, f.AvatarURL = text(content[FieldDisplayName]), text(content[FieldAvatarURL])
	}
	return f, nil
}

// text is the string in a JSON value; empty if it is none.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}
