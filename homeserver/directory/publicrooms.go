package directory

import (
	"context"
	"errors"
	"fmt"

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
	// maxRoomTypes bounds the types of rooms that one query asks for.
	maxRoomTypes = 50
	// maxLooked and maxLookedSize are how many rooms one query looks at, and how many bytes they say of themselves. Where it ends
	// is the next page's beginning. Once the page is full, no more than enoughLooked are looked at to count those that fit.
	maxLooked, maxLookedSize = 5000, 4 << 20
	enoughLooked             = 1000
	// lookedAtOnce is how many rooms are read at a time.
	lookedAtOnce = 100
)

// PublicRooms answers a query with a page of this server's list, or of another's.
func (s *Service) PublicRooms(ctx context.Context, server id.ServerName, q Query) (*Page, error) {
	if server != "" && server != s.Server {
		if s.Remote == nil {
			return nil, fmt.Errorf("%w: this server does not federate", ErrBadQuery)
		}
		return s.Remote.PublicRooms(ctx, server, q)
	}
	from, err := sinceOf(q.Since)
	if err != nil {
		return nil, err
	}
	if len(q.Search) > maxSearch {
		return nil, fmt.Errorf("%w: the search term is longer than %d bytes", ErrBadQuery, maxSearch)
	}
	if len(q.RoomTypes) > maxRoomTypes {
		return nil, fmt.Errorf("%w: more than %d types of rooms", ErrBadQuery, maxRoomTypes)
	}
	if q.Limit <= 0 {
		q.Limit = usualPage
	}
	q.Limit = min(q.Limit, maxPage)
	l := listing{q: q, from: from, filtered: q.Search != "" || q.RoomTypes != nil, term: glob.Fold(q.Search)}
	if err := s.Store.View(ctx, func(tx *store.Tx) error { return l.read(ctx, tx) }); err != nil {
		return nil, err
	}
	return l.page(), nil
}

func entryOf(s *store.PublishedRoom) Entry {
	return Entry{
		RoomID: s.ID, Name: s.Name, Topic: s.Topic, AvatarURL: s.AvatarURL, CanonicalAlias: s.CanonicalAlias,
		JoinedMembers: s.JoinedMembers, WorldReadable: s.HistoryVisibility == "world_readable", GuestCanJoin: s.GuestAccess == "can_join",
		JoinRule: s.JoinRule, RoomType: s.RoomType, Encryption: s.Encryption, RoomVersion: s.Version,
	}
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
