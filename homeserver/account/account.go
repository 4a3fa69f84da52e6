package account

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// The refusals of this package.
var (
	ErrUnknownToken       = errors.New("the token is not valid")
	ErrTokenExpired       = errors.New("the access token has expired")
	ErrBadLogin           = errors.New("the user name or the password is wrong")
	ErrForbidden          = errors.New("not allowed")
	ErrDeactivated        = errors.New("the account has been deactivated")
	ErrRegistrationClosed = errors.New("registration is closed on this server")
	ErrUserInUse          = errors.New("the user name is taken")
	ErrInvalidUsername    = errors.New("not a valid user name")
	ErrWeakPassword       = errors.New("the password is too weak")
	ErrNotFound           = errors.New("not found")
	ErrInvalidParam       = errors.New("invalid value")
	ErrProtected          = errors.New("this kind of account data cannot be set in this way")
	ErrTooLarge           = errors.New("too large")
	ErrProfileTooLarge    = errors.New("the profile would be larger than 64 KiB")
	ErrKeyTooLarge        = errors.New("the name of the profile field is longer than 255 bytes")
	ErrTooMany            = errors.New("too many")
)

// Registration says who may make an account.
type Registration struct {
	Open         bool   // anyone may, perhaps with a token; otherwise only with a token made by an administrator
	RequireToken bool   // also when open
	SharedSecret string // lets tools make accounts; empty: they may not
}

// Options are what a Service needs. Functions may be nil.
type Options struct {
	DB           *store.DB
	Server       id.ServerName
	Log          *slog.Logger
	Registration Registration
	// MinPassword is the shortest password that may be set, in characters.
	MinPassword int
	// TokenLifetime is how long access tokens are valid that can be refreshed; 0: until their session ends.
	TokenLifetime time.Duration
	// RefreshLifetime is for how long behind the end of TokenLifetime a session can still be refreshed; 0: for ever.
	RefreshLifetime time.Duration

	// DevicesChanging is called before a transaction that changes devices of a user. What it returns is called in it: with
	// those that have another display name or come to an account that has others, and with those that are deleted, to
	// delete what hangs on them.
	DevicesChanging func(ctx context.Context, user id.UserID) (func(tx *store.Tx, named, deleted []id.DeviceID) error, error)
	// DevicesEnding is called before devices that are logged out are deleted, outside of transactions: to delete what is much
	// of what hangs on them.
	DevicesEnding func(ctx context.Context, user id.UserID, devices []id.DeviceID) error
	// Erased is called in the transaction that erases a user, to delete what is kept of the user elsewhere.
	Erased func(tx *store.Tx, user id.UserID) error
	// ProfileChanged shows fields of a user's profile in a room, and returns the size of the event that it wrote; 0 if the room
	// shows them already. It is called again after an error and after a restart, until it returns nil.
	ProfileChanged func(ctx context.Context, room id.RoomID, shown Shown) (size int, err error)
	// ProfileRate is how often ProfileChanged may write something for a user. A large event counts as several.
	ProfileRate Rate
	// Deactivated makes a user leave all rooms. It is repeated like ProfileChanged.
	Deactivated func(ctx context.Context, user id.UserID) error
	// RemoteProfile asks another server for a profile, all of it or the named field. An error that wraps
	// ErrNotFound means that there is none.
	RemoteProfile func(ctx context.Context, user id.UserID, field string) (map[string]json.RawMessage, error)
}

// Shown is what rooms are shown of a user.
type Shown struct {
	User    id.UserID
	Profile map[string]json.RawMessage
	Fields  []string // those that are to be shown: the display name, the avatar
}

// Service does what concerns accounts. All methods may be called concurrently.
type Service struct {
	Options

	sessions *sessions
	filters  *otter.Cache[filterKey, *filter.Filter]
	hashing  chan struct{} // bounds the memory of concurrent password hashes
	errands  chan struct{} // wakes Run
	paces    map[id.UserID]*pace

	secretMu sync.Mutex
	secret   []byte
}

// New makes a Service. Run has to be started for rooms to hear of changed profiles.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.DevicesChanging == nil {
		o.DevicesChanging = func(context.Context, id.UserID) (func(*store.Tx, []id.DeviceID, []id.DeviceID) error, error) {
			return func(*store.Tx, []id.DeviceID, []id.DeviceID) error { return nil }, nil
		}
	}
	return &Service{
		Options:  o,
		sessions: newSessions(),
		filters:  otter.Must(&otter.Options[filterKey, *filter.Filter]{MaximumSize: cachedFilters}),
		hashing:  make(chan struct{}, runtime.NumCPU()),
		errands:  make(chan struct{}, 1),
		paces:    map[id.UserID]*pace{},
	}
}
