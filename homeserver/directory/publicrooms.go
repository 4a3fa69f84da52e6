package directory

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/glob"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Query is what is asked of a list of public rooms (Client-Server API, POST /publicRooms).
type Query struct {
	Search    string
	RoomTypes []*string // nil: all; a nil element stands for rooms without a type
	Limit     int       // 0: the usual number
	Since     string
}

// Entry is a room in a list.
type Entry struct {
	RoomID         id.RoomID      `json:"room_id"`
	Name           string         `json:"name,omitempty"`
	Topic          string         `json:"topic,omitempty"`
	AvatarURL      string         `json:"avatar_url,omitempty"`
	CanonicalAlias string         `json:"canonical_alias,omitempty"`
	JoinedMembers  int64          `json:"num_joined_members"`
	WorldReadable  bool           `json:"world_readable"`
	GuestCanJoin   bool           `json:"guest_can_join"`
	JoinRule       string         `json:"join_rule,omitempty"`
	RoomType       string         `json:"room_type,omitempty"`
	Encryption     string         `json:"encryption,omitempty"`
	RoomVersion    id.RoomVersion `json:"room_version,omitempty"`
}

// Page is part of a list of public rooms.
type Page struct {
	Chunk     []Entry `json:"chunk"`
	NextBatch string  `json:"next_batch,omitempty"`
	PrevBatch string  `json:"prev_batch,omitempty"`
	Total     int64   `json:"total_room_count_estimate"`
}

// ErrBadQuery says that a query can't be answered.
var ErrBadQuery = errors.New("not a valid query for public rooms")

const (
	usualPage = 100
	maxPage   = 500
	maxSearch = 256
	// maxPageSize is how many bytes of names, topics and the like a page of rooms has, give or take those of its last room.
	maxPageSize = 1 << 20
	// maxSearched is how much of what a room says of itself is searched, in bytes.
	maxSearched = 4 << 10
)

// PublicRooms answers a query with a page of this server's list, or of another's.
func (s *Service) PublicRooms(ctx context.Context, server id.ServerName, q Query) (*Page, error) {
	if server != "" && server != s.Server {
		if s.Remote == nil {
			return nil, fmt.Errorf("%w: this server does not federate", ErrBadQuery)
		}
		return s.Remote.PublicRooms(ctx, server, q)
	}
	offset, err := offsetOf(q.Since)
	if err != nil {
		return nil, err
	}
	if len(q.Search) > maxSearch {
		return nil, fmt.Errorf("%w: the search term is longer than %d bytes", ErrBadQuery, maxSearch)
	}
	if q.Limit <= 0 {
		q.Limit = usualPage
	}
	limit := min(q.Limit, maxPage)
	page := &Page{Chunk: []Entry{}}
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		rooms, total, err := tx.Rooms.Published(offset, limit, maxPageSize, q.wants)
		if err != nil {
			return err
		}
		if page.Total = total; int64(offset)+int64(len(rooms)) < total && len(rooms) > 0 {
			page.NextBatch = tokenOf(offset + len(rooms))
		}
		for _, r := range rooms {
			room, err := tx.Rooms.ByID(r.ID)
			if err != nil {
				return err
			}
			if room != nil {
				page.Chunk = append(page.Chunk, entryOf(room, r.Summary))
			}
		}
		return nil
	})
	if offset > 0 {
		page.PrevBatch = tokenOf(max(0, offset-limit))
	}
	return page, err
}

// wants says whether a room was asked for: one of the types, and with the search term in its name, topic or alias, in
// whatever case and however its letters are composed. The databases know different letters, so they aren't asked.
func (q *Query) wants(r *store.Summary) bool {
	ofType := q.RoomTypes == nil || slices.ContainsFunc(q.RoomTypes, func(t *string) bool {
		return t == nil && r.RoomType == "" || t != nil && *t == r.RoomType
	})
	if !ofType || q.Search == "" {
		return ofType
	}
	text := r.Name + " " + r.CanonicalAlias + " " + r.Topic
	return strings.Contains(glob.Fold(text[:min(len(text), maxSearched)]), glob.Fold(q.Search))
}

func entryOf(room *store.Room, s store.Summary) Entry {
	return Entry{
		RoomID: room.ID, Name: s.Name, Topic: s.Topic, AvatarURL: s.AvatarURL, CanonicalAlias: s.CanonicalAlias,
		JoinedMembers: s.JoinedMembers, WorldReadable: s.HistoryVisibility == "world_readable", GuestCanJoin: s.GuestAccess == "can_join",
		JoinRule: s.JoinRule, RoomType: s.RoomType, Encryption: s.Encryption, RoomVersion: room.Version.ID,
	}
}

func tokenOf(offset int) string {
	return base64.RawURLEncoding.EncodeToString([]byte("p" + strconv.Itoa(offset)))
}

func offsetOf(token string) (int, error) {
	if token == "" {
		return 0, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil && len(raw) > 1 && raw[0] == 'p' {
		if n, err := strconv.Atoi(string(raw[1:])); err == nil && n >= 0 {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%w: since is not a token of this server", ErrBadQuery)
}

// currentState reads a piece of a room's current state with an empty key; nil if it is not set.
func currentState(tx *store.Tx, room *store.Room, typ string) (*store.Event, error) {
	head, err := tx.Rooms.Head(room.NID)
	if err != nil {
		return nil, err
	}
	m, err := tx.States.Map(head.State)
	if err != nil {
		return nil, err
	}
	return tx.States.Event(m, event.StateKeyTuple{Type: typ})
}

// Listed says whether a room stands in the list of public rooms.
func (s *Service) Listed(ctx context.Context, roomID id.RoomID) (bool, error) {
	var listed bool
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		room, err := tx.Rooms.ByID(roomID)
		if err != nil {
			return err
		}
		if room == nil {
			return fmt.Errorf("%w: %s", ErrNotFound, roomID)
		}
		summary, err := tx.Rooms.Summary(room.NID)
		listed = summary.Published
		return err
	})
	return listed, err
}

// List puts a room into the list of public rooms, or takes it out: who may name aliases in the room may.
func (s *Service) List(ctx context.Context, roomID id.RoomID, user id.UserID, listed bool) error {
	may, err := s.MayNameAliases(ctx, roomID, user)
	if err != nil {
		return err
	}
	if !may {
		return fmt.Errorf("%w: your power level is too low to publish the room", ErrForbidden)
	}
	return s.Store.Update(ctx, func(tx *store.Tx) error {
		room, err := tx.Rooms.ByID(roomID)
		if err != nil {
			return err
		}
		if room == nil {
			return fmt.Errorf("%w: %s", ErrNotFound, roomID)
		}
		return tx.Rooms.SetPublished(room.NID, listed)
	})
}
