package directory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/peers"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
)

// ErrNoRoom is returned for rooms that are not known, and for those that are not for who asks.
var ErrNoRoom = errors.New("there is no such room, or it is not for you to see")

// Summary is what is shown of a room to who might join it.
type Summary struct {
	Entry
	// AllowedRooms are those whose members may join, if the room is restricted to them.
	AllowedRooms []id.RoomID `json:"allowed_room_ids,omitempty"`
}

// Preview is a summary with the membership of who asks (Client-Server API, GET /room_summary).
type Preview struct {
	Summary
	Membership string `json:"membership,omitempty"`
}

// spaceType is the type of rooms that are spaces.
const spaceType = "m.space"

// Preview summarizes a room for a user, or for anybody if the user is empty. Rooms that this server is not in are
// asked of other servers, but only for users. Errors: ErrNoRoom; room.ErrUnreachable or room.ErrBadAnswer if no server says
// anything of the room, and one of them might have known it.
func (s *Service) Preview(ctx context.Context, user id.UserID, roomID id.RoomID, via []id.ServerName) (*Preview, error) {
	known, err := s.look(ctx, roomID, false, nil)
	if err != nil {
		return nil, err
	}
	who := visitor{user: user}
	if known == nil && user != "" {
		from, err := s.remembered(ctx, roomID, user)
		if err != nil {
			return nil, err
		}
		level, err := s.ask(ctx, roomID, slices.Concat(via, from), false)
		if err != nil && !saysNo(err) {
			return nil, err
		}
		if level != nil {
			known = &level.Room
		}
	}
	if known == nil {
		return nil, fmt.Errorf("%w: %s", ErrNoRoom, roomID)
	}
	out := &Preview{Summary: known.Summary}
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		open, err := known.openTo(tx, who)
		if err == nil && !open {
			return fmt.Errorf("%w: %s", ErrNoRoom, roomID)
		}
		if err != nil || user == "" {
			return err
		}
		if out.Membership, err = membershipIn(tx, roomID, user); out.Membership == "" {
			out.Membership = "leave"
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// remembered are the servers to ask about a room for which nobody named one. The IDs of rooms name theirs only before
// version 12.
func (s *Service) remembered(ctx context.Context, roomID id.RoomID, user id.UserID) (out []id.ServerName, err error) {
	if s.Known != nil {
		if out, err = s.Known(ctx, roomID, user); err != nil {
			return nil, err
		}
	}
	if server := roomID.Server(); server != "" {
		out = append(out, server)
	}
	return out, nil
}

// look reads the node of a room that this server is in; nil if it is not. Its children are read within a budget in bytes,
// or not at all without one.
func (s *Service) look(ctx context.Context, roomID id.RoomID, suggestedOnly bool, budget *int) (n *Node, err error) {
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		n, err = nodeOf(tx, roomID, suggestedOnly, budget)
		return err
	})
	return n, err
}

// nodeOf is look within a transaction.
func nodeOf(tx *store.Tx, roomID id.RoomID, suggestedOnly bool, budget *int) (*Node, error) {
	r, err := tx.Rooms.ByID(roomID)
	if err != nil || r == nil {
		return nil, err
	}
	if in, err := tx.Memberships.AnyLocal(r.NID); err != nil || !in {
		return nil, err
	}
	summary, err := tx.Rooms.Summary(r.NID)
	if err != nil {
		return nil, err
	}
	n := &Node{Summary: Summary{Entry: entryOf(&store.PublishedRoom{ID: r.ID, Version: r.Version.ID, Summary: summary})}}
	if summary.JoinRule == "restricted" || summary.JoinRule == "knock_restricted" {
		rules, err := currentState(tx, r, event.TypeJoinRules)
		if err != nil {
			return nil, err
		}
		if rules != nil {
			n.AllowedRooms = room.AllowedRooms(rules.Event)
		}
	}
	if n.RoomType == spaceType && budget != nil {
		if n.children, err = childrenIn(tx, r, budget); err != nil {
			return nil, err
		}
	}
	n.arrange(suggestedOnly)
	return n, nil
}

// visitor is who might come into a room: a user, a server, or if both are empty anybody.
type visitor struct {
	user   id.UserID
	server id.ServerName
}

// openTo says whether somebody may see a room: by a membership, by the join rule, or because the world may
// (Client-Server API, GET /hierarchy).
func (s *Summary) openTo(tx *store.Tx, who visitor) (bool, error) {
	if s.WorldReadable {
		return true, nil
	}
	membership, err := who.membership(tx, s.RoomID)
	switch {
	case err != nil:
		return false, err
	case membership == "join" || membership == "invite":
		return true, nil
	case membership == "ban":
		return false, nil
	}
	// The version may not be given by another server, which then has to know what its join rules mean.
	v, _ := event.VersionOf(s.RoomVersion)
	switch s.JoinRule {
	case "public", "":
		return true, nil
	case "knock":
		return v == nil || v.Knock, nil
	case "knock_restricted":
		return v == nil || v.KnockRestricted, nil
	case "restricted":
		if v != nil && !v.RestrictedJoin {
			return false, nil
		}
		return who.isInOne(tx, s.AllowedRooms)
	default:
		return false, nil
	}
}

func (v visitor) isInOne(tx *store.Tx, rooms []id.RoomID) (bool, error) {
	for _, r := range rooms[:min(len(rooms), room.MaxAllowed)] {
		membership, err := v.membership(tx, r)
		if err != nil || membership == "join" {
			return err == nil, err
		}
	}
	return false, nil
}

// membership is a user's in a room; of a server it is that of any of its users, "join" or "invite".
func (v visitor) membership(tx *store.Tx, roomID id.RoomID) (string, error) {
	if v.user != "" {
		return membershipIn(tx, roomID, v.user)
	}
	r, err := tx.Rooms.ByID(roomID)
	if err != nil || r == nil || v.server == "" {
		return "", err
	}
	for _, membership := range []string{"join", "invite"} {
		has, err := tx.Memberships.AnyOfServer(r.NID, v.server, membership)
		if err != nil || has {
			return membership, err
		}
	}
	return "", nil
}

func membershipIn(tx *store.Tx, roomID id.RoomID, user id.UserID) (string, error) {
	r, err := tx.Rooms.ByID(roomID)
	if err != nil || r == nil {
		return "", err
	}
	m, err := tx.Memberships.Get(r.NID, user)
	return m.Membership, err
}

const (
	maxVia        = 3                // how many servers are asked about a room
	askTimeout    = 10 * time.Second // how long they have to answer in all
	levelsKept    = 5 * time.Minute  // how long an answer is good for
	maxLevelsKept = 500              // of all servers; the one with the most loses one first
	maxLevelSize  = 64 << 10         // larger answers are not kept
)

// levelKey names what was asked, and of whom: each server answers for itself, and only those who ask it get its answer.
type levelKey struct {
	server        id.ServerName
	room          id.RoomID
	suggestedOnly bool
}

type keptLevel struct {
	*Level
	until time.Time
}

// saysNo says whether servers that were asked about a room answered that there is none, or not for this server.
func saysNo(err error) bool {
	return errors.Is(err, room.ErrNotFound) || errors.Is(err, room.ErrForbidden)
}

// ask asks other servers about a room. What each tells is remembered for a while, for those who would ask it. The error is
// the most telling of those of all servers, as where somebody joins; there is neither that nor an answer if there is nobody
// to ask.
func (s *Service) ask(ctx context.Context, roomID id.RoomID, via []id.ServerName, suggestedOnly bool) (*Level, error) {
	if s.Remote == nil {
		return nil, nil
	}
	var servers []id.ServerName
	for _, server := range via {
		if server == "" || server == s.Server || slices.Contains(servers, server) || len(servers) == maxVia {
			continue
		}
		if level := s.keptLevel(levelKey{server, roomID, suggestedOnly}); level != nil {
			return level, nil
		}
		servers = append(servers, server)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	errs := make([]error, len(servers))
	level, err := peers.First(ctx, servers, func(ctx context.Context, server id.ServerName) (*Level, error) {
		level, err := s.Remote.Hierarchy(ctx, server, roomID, suggestedOnly)
		if err != nil {
			errs[slices.Index(servers, server)] = err
			return nil, err // another one may know better
		}
		level.Room.arrange(suggestedOnly)
		if level.size() <= maxLevelSize {
			s.keepLevel(levelKey{server, roomID, suggestedOnly}, level)
		}
		return level, nil
	})
	if err == nil {
		return level, nil
	}
	if errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil }); len(errs) == 0 {
		return nil, nil
	}
	return nil, fmt.Errorf("ask about %s: %w", roomID, room.MostTelling(errs))
}

// size is about how many bytes a level takes.
func (l *Level) size() int {
	n := l.Room.size() + 50*len(l.Inaccessible)
	for i := range l.Children {
		n += l.Children[i].size()
	}
	return n
}

// size is about how many bytes a summary takes.
func (s *Summary) size() int {
	return 200 + len(s.Name) + len(s.Topic) + len(s.AvatarURL) + len(s.CanonicalAlias) + 50*len(s.AllowedRooms)
}

// keptLevel is what a server told a moment ago; nil if it did not.
func (s *Service) keptLevel(key levelKey) *Level {
	s.mu.Lock()
	defer s.mu.Unlock()
	if kept, ok := s.levels[key]; ok && time.Now().Before(kept.until) {
		return kept.Level
	}
	return nil
}

// keepLevel remembers what a server told. If there is too much, the server that told the most loses its oldest.
func (s *Service) keepLevel(key levelKey, level *Level) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.levels == nil {
		s.levels = map[levelKey]keptLevel{}
	}
	s.levels[key] = keptLevel{level, now.Add(levelsKept)}
	if len(s.levels) <= maxLevelsKept {
		return
	}
	maps.DeleteFunc(s.levels, func(_ levelKey, old keptLevel) bool { return now.After(old.until) })
	told, oldest := map[id.ServerName]int{}, map[id.ServerName]levelKey{}
	var fullest id.ServerName
	for k, kept := range s.levels {
		if first, ok := oldest[k.server]; !ok || kept.until.Before(s.levels[first].until) {
			oldest[k.server] = k
		}
		if told[k.server]++; told[k.server] > told[fullest] {
			fullest = k.server
		}
	}
	if len(s.levels) > maxLevelsKept {
		delete(s.levels, oldest[fullest])
	}
}
