package account

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/securecomm/securecomm/homeserver/glob"
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

// Search finds users by their ID or display name: the searcher, who shares a room with the searcher, or is in a room that
// is open to all. Who is called just so comes first. The answer is limited if there are more than limit, or may be.
func (s *Service) Search(ctx context.Context, searcher id.UserID, term string, limit int) (found []Found, limited bool, err error) {
	asked := strings.TrimSpace(term)
	term = glob.Fold(asked)
	if len(term) > maxSearchTerm || checkText(term) != nil {
		return nil, false, fmt.Errorf("%w: a search term has at most %d bytes", ErrInvalidParam, maxSearchTerm)
	}
	if term == "" {
		return nil, false, nil
	}
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		local, err := tx.Profiles.Search(searcher, term, limit+1)
		if err != nil {
			return err
		}
		all := make([]candidate, 0, len(local))
		for _, row := range local {
			c := candidate{Found: Found{User: row.User}}
			c.fit(row.Folded, term)
			// Who searches by a piece of an ID looks for others; oneself is found by name, or by all of the ID.
			if row.User != searcher || c.rank == exactly || strings.Contains(row.Folded, term) {
				all = append(all, c)
			}
		}
		strangers, more, err := searchStrangers(ctx, tx, searcher, asked)
		if err != nil {
			return err
		}
		all = append(all, strangers...)
		slices.SortFunc(all, candidate.compare)
		if limited = more || len(all) > limit; len(all) > limit {
			all = all[:limit]
		}
		for _, c := range all {
			if !c.elsewhere {
				profile, err := tx.Profiles.Get(c.User)
				if err != nil {
					return err
				}
				c.DisplayName, c.AvatarURL = text(profile[FieldDisplayName]), text(profile[FieldAvatarURL])
			}
			found = append(found, c.Found)
		}
		return nil
	})
	return found, limited, err
}

// candidate is a user who was found, with how well the name fits.
type candidate struct {
	Found
	elsewhere    bool // of another server, and described already
	rank, length int
}

// fit says how well the user fits a term, under a name in lower case.
func (c *candidate) fit(name, term string) {
	c.rank, c.length = rankOf(c.User, name, term), utf8.RuneCountInString(cmp.Or(name, c.User.Localpart()))
}

func (c candidate) compare(other candidate) int {
	return cmp.Or(cmp.Compare(c.rank, other.rank), cmp.Compare(c.length, other.length), cmp.Compare(c.User, other.User))
}

// Ranks, from the best; they are those of store.Profiles.Search.
const (
	exactly = iota
	beginning
	inside
	nowhere
)

// rankOf says where a term is in a user's ID or name, all in lower case.
func rankOf(user id.UserID, name, term string) int {
	u, localpart := strings.ToLower(string(user)), "@"+strings.TrimPrefix(term, "@")
	switch {
	case name == term || u == localpart || strings.HasPrefix(u, localpart+":"):
		return exactly
	case strings.HasPrefix(name, term) || strings.HasPrefix(u, localpart):
		return beginning
	case strings.Contains(name, term) || strings.Contains(u, term):
		return inside
	}
	return nowhere
}

// text is the string in a JSON value; empty if it is none.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}
