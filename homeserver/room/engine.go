package room

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Errors of the engine. What is refused by the authorization rules wraps ErrForbidden and a *eventauth.Refusal.
var (
	ErrForbidden       = errors.New("not allowed")
	ErrNotFound        = errors.New("no such room here")
	ErrEventNotFound   = errors.New("no such event")
	ErrUnknownVersion  = errors.New("this room version is not supported")
	ErrBadRequest      = errors.New("the request makes no sense")
	ErrDuplicate       = errors.New("you have annotated the event in this way before")
	ErrNoThreadRoot    = errors.New("the event relates to another one itself, and so cannot begin a thread")
	ErrAliasTaken      = errors.New("the room alias is taken")
	ErrUnreachable     = errors.New("no server that could answer was reached; it may work later")
	ErrBadAnswer       = errors.New("the other server's answer makes no sense")
	ErrCannotAuthorize = errors.New("this server cannot tell whether the join is allowed")
	ErrCannotGrant     = errors.New("no user of this server may authorise the join")
	ErrBusy            = errors.New("the room changes too fast; try again")
	// ErrEntering says that a user of this server is about to come into a room: it passes.
	ErrEntering = errors.New("a user of this server is about to come into the room; it may work later")
	// ErrTooMany says that somebody has too many of something already.
	ErrTooMany = errors.New("too many")
)

// maxRetries is how often an event is built anew because the room's head moved.
const maxRetries = 20

// Engine does everything that changes rooms. Fill the fields before use; all methods may be called concurrently.
type Engine struct {
	Store  *store.DB
	Server id.ServerName
	Key    sign.Key
	// Remote is asked for what only other servers know; nil if the server does not federate.
	Remote Remote
	Log    *slog.Logger
	// DefaultVersion is the version of new rooms for which nobody asked for another.
	DefaultVersion id.RoomVersion

	// Joined is called in the update by which a local user comes into a room with other servers; it may be nil.
	Joined func(tx *store.Tx, user id.UserID, servers []id.ServerName) error

	// Shown is called in the update by which a local user comes into a room, with the profile that the room shows, which
	// was read before; it may be nil.
	Shown func(tx *store.Tx, user id.UserID, room id.RoomID, profile Profile) error

	// Followed is called once a local user has come into a room that says that it replaces another one; it may be nil.
	// replaced says that the other one says so too. An error is logged.
	Followed func(ctx context.Context, user id.UserID, from, to id.RoomID, replaced bool) error

	invites inviting
	heavy   heavy

	mu       sync.Mutex
	rooms    map[id.RoomID]*live
	entering map[id.RoomID]*entering
	graphs   map[store.RoomNID]*authGraph
	lastTime int64 // what uniqueTime gave out last
}
