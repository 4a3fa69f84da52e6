package account

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/securecomm/securecomm/homeserver/glob"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// A search looks at the users of other servers in this order, and at no more of them than these bounds allow: those whose ID
// begins so, those in the searcher's rooms, and those in rooms that are open to all. Of rooms with many, it looks at those
// who came last.
const (
	// maxStrangers is how many users are looked at.
	maxStrangers = 5000
	// maxByID is how many memberships are looked at for each way to begin an ID.
	maxByID = 500
	// maxOwnRooms is how many of the searcher's rooms are looked at, the smallest first, and maxOpenRooms how many of those that
	// are open to all, the largest first; maxOwnRows and maxOpenRows how many members of them in all.
	maxOwnRooms, maxOwnRows   = 1000, 8000
	maxOpenRooms, maxOpenRows = 100, 4000
	// strangersAtOnce is of how many of them the member events are read at a time.
	strangersAtOnce = 500
	// maxStrangerSize bounds a member event that is looked at, in bytes; maxStrangersSize all of them. Of others, only the IDs
	// are known.
	maxStrangerSize  = 8 << 10
	maxStrangersSize = 16 << 20
)

// strangers are users of other servers, each with the latest member event that was found.
type strangers struct {
	rows []store.Stranger
	at   map[id.UserID]int
	more bool // there are some that are not looked at
}

func (s *strangers) add(found []store.Stranger, more bool) {
	s.more = s.more || more
	for _, f := range found {
		if i, ok := s.at[f.User]; ok {
			s.rows[i].Event = max(s.rows[i].Event, f.Event)
		} else if len(s.rows) == maxStrangers {
			s.more = true
		} else {
			s.at[f.User] = len(s.rows)
			s.rows = append(s.rows, f)
		}
	}
}

// lookAt gathers the users of other servers that a search looks at.
func lookAt(tx *store.Tx, searcher id.UserID, term string) (*strangers, error) {
	s := &strangers{at: map[id.UserID]int{}}
	for _, prefix := range prefixes(term) {
		found, more, err := tx.Profiles.StrangersBy(searcher, prefix, maxByID)
		if err != nil {
			return nil, err
		}
		s.add(found, more)
	}
	own, open, err := tx.Profiles.KnownRooms(searcher, maxOwnRooms, maxOpenRooms)
	if err != nil {
		return nil, err
	}
	s.more = s.more || len(own) == maxOwnRooms || len(open) == maxOpenRooms
	found, more, err := tx.Profiles.StrangersIn(own, maxOwnRows)
	if err != nil {
		return nil, err
	}
	s.add(found, more)
	if found, more, err = tx.Profiles.StrangersIn(open, maxOpenRows); err != nil {
		return nil, err
	}
	s.add(found, more)
	return s, nil
}

// prefixes are how the IDs begin that a term may stand for, those that fit best first. Some old IDs have capital letters.
func prefixes(term string) (out []string) {
	spellings := []string{glob.Fold(term), term}
	for _, t := range slices.Compact(spellings) {
		localpart := "@" + strings.TrimPrefix(t, "@")
		if !strings.Contains(localpart, ":") {
			out = append(out, localpart+":")
		}
		out = append(out, localpart)
	}
	return out
}

// searchStrangers finds users of other servers by what they are called in the rooms that the searcher may know; more says
// that some were not looked at.
func searchStrangers(ctx context.Context, tx *store.Tx, searcher id.UserID, term string) (out []candidate, more bool, err error) {
	looked, err := lookAt(tx, searcher, term)
	if err != nil {
		return nil, false, err
	}
	term, more = glob.Fold(term), looked.more
	left := maxStrangersSize
	for batch := range slices.Chunk(looked.rows, strangersAtOnce) {
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
