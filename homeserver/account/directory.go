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

const (
	maxSearchTerm = 256
	// maxStrangers is how many users of other servers are looked at: those whose ID fits, then those who came last.
	maxStrangers = 5000
	// strangersAtOnce is of how many of them the member events are read at a time.
	strangersAtOnce = 500
	// maxStrangerSize bounds a member event that is looked at, in bytes; maxStrangersSize all of them. Of others, only the IDs
	// are known.
	maxStrangerSize  = 8 << 10
	maxStrangersSize = 16 << 20
)

// Search finds users by their ID or display name: the searcher, who shares a room with the searcher, or is in a room that
// is open to all. Who is called just so comes first. The answer is limited if there are more than limit, or may be.
func (s *Service) Search(ctx context.Context, searcher id.UserID, term string, limit int) (found []Found, limited bool, err error) {
	term = glob.Fold(strings.TrimSpace(term))
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
		strangers, more, err := searchStrangers(ctx, tx, searcher, term)
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

// searchStrangers finds users of other servers by what they are called in the rooms that the searcher may know; more says
// that some were not looked at.
func searchStrangers(ctx context.Context, tx *store.Tx, searcher id.UserID, term string) (out []candidate, more bool, err error) {
	rows, err := tx.Profiles.Strangers(searcher, term, maxStrangers+1)
	if err != nil {
		return nil, false, err
	}
	if more = len(rows) > maxStrangers; more {
		rows = rows[:maxStrangers]
	}
	left := maxStrangersSize
	for batch := range slices.Chunk(rows, strangersAtOnce) {
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		nids := make([]store.EventNID, len(batch))
		for i, row := range batch {
			nids[i] = row.Event
		}
		sizes, err := tx.Events.Sizes(nids)
		if err != nil {
			return nil, false, err
		}
		nids = slices.DeleteFunc(nids, func(nid store.EventNID) bool {
			size := sizes[nid].Event
			if size > maxStrangerSize || size > left {
				more = true
				return true
			}
			left -= size
			return false
		})
		events, err := tx.Events.ByNID(nids...)
		if err != nil {
			return nil, false, err
		}
		members := make(map[store.EventNID]*store.Event, len(events))
		for _, e := range events {
			if e != nil {
				members[e.NID] = e
			}
		}
		for _, row := range batch {
			c := candidate{Found: Found{User: row.User}, elsewhere: true}
			var content map[string]json.RawMessage
			if e := members[row.Event]; e != nil && json.Unmarshal(e.Content, &content) == nil {
				c.DisplayName, c.AvatarURL = text(content[FieldDisplayName]), text(content[FieldAvatarURL])
			}
			if c.fit(glob.Fold(c.DisplayName), term); c.rank < nowhere {
				out = append(out, c)
			}
		}
	}
	return out, more, nil
}

// text is the string in a JSON value; empty if it is none.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}
