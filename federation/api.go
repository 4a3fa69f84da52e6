package federation

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/sync/singleflight"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/federation/keyring"
	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/directory"
	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/media"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
)

// API serves the server-server API. Fill the fields, call Register, and Close in the end. Of the functions,
// those that are nil make their endpoints unknown.
type API struct {
	Server    id.ServerName
	Software  client.Version // what the server says that it is
	Store     *store.DB
	Keyring   *keyring.Keyring
	Rooms     *room.Engine
	Account   *account.Service
	Keys      *keys.Service
	Directory *directory.Service
	Media     *media.Service
	Ephemeral *ephemeral.Service
	Log       *slog.Logger
	// Allows says which servers may speak to this one; nil allows all.
	Allows func(id.ServerName) bool
	// Woke is told of each server that has proved to be alive; it may be nil.
	Woke func(id.ServerName)

	// Hierarchy answers GET /hierarchy: what is typed any is encoded as the specification has it.
	Hierarchy func(ctx context.Context, origin id.ServerName, room id.RoomID, suggestedOnly bool) (any, error)
	// NearestEvent finds the event of a room closest to a time in milliseconds since 1970, in direction "f" or "b", among
	// those that are shown.
	NearestEvent func(ctx context.Context, room id.RoomID, ts int64, dir string, shown func(*store.Tx, *store.Room) func(*store.Event) (bool, error)) (id.EventID, int64, error)

	// Observe may be nil.
	Observe Observe
	// Rate is how often a server may ask.
	Rate Rate
	// SetAside is called for each unit that was received, and tried for the last time in vain; it may be nil.
	SetAside func()
	// FirstPause is how long what a fault of ours kept out waits for its first try; 0 for a default.
	FirstPause time.Duration
	// Stranger says what a request is counted by that no server has signed; nil takes the connection.
	Stranger func(*http.Request) string

	pace     pace
	strange  pace       // fetches of keys for requests, by address or IPv6 network
	forged   pace       // requests that did not prove who made them, likewise
	arriving load.Stage // bodies that are not authenticated yet, by address or IPv6 network
	inWork   load.Stage // requests, by server

	meetings turns // requests that wait for the keys of their servers, by address or IPv6 network
	costly   turns // requests that take much work, by server
	sending  turns // transactions that are worked on, by server

	flights singleflight.Group // transactions under way
	kept    chan struct{}      // has something while a unit waits that retry has not looked at
	mu      sync.Mutex         // over ended, the beginning of work, and entering
	ended   bool
	// entering are the rooms of which units wait for a user of this server to come into them.
	entering map[id.RoomID]bool
	working  sync.WaitGroup
	once     sync.Once
	ctx      context.Context
	cancel   context.CancelFunc
}

// routes is the table of all routes, in the order of the specification.
func (a *API) routes() []route {
	return slices.Concat(
		a.keyRoutes(),
		a.transactionRoutes(),
		a.eventRoutes(),
		a.membershipRoutes(),
		a.inviteRoutes(),
		a.queryRoutes(),
		a.deviceRoutes(),
		a.mediaRoutes(),
	)
}

const prefix = "/_matrix/federation"

// Register begins to try again what waits, and adds the routes to an Echo, which may serve others too. Unknown paths are
// the business of the Echo's error handler: AnswerError is one.
func (a *API) Register(e *echo.Echo) {
	a.start()
	if a.Store != nil {
		a.working.Go(a.retry)
	}
	for _, r := range a.routes() {
		e.Add(r.method, r.fullPath(), a.serve(r))
	}
}

func (r route) fullPath() string {
	if strings.HasPrefix(r.path, "/_") {
		return r.path
	}
	return prefix + r.path
}

func (a *API) start() {
	a.once.Do(func() {
		a.ctx, a.cancel = context.WithCancel(context.Background())
		a.pace, a.strange, a.forged = newPace(a.Rate), newPace(strangeRate), newPace(forgedRate)
		a.kept = make(chan struct{}, 1)
		a.arriving.Each, a.arriving.All = senderLoad, allLoad
		a.inWork.Each, a.inWork.All = senderLoad, allLoad
		a.meetings.most, a.meetings.each = meetingsAll, meetingsFor
		a.costly.most, a.costly.each, a.costly.queue = costlyAll, costlyFor, costlyWaiting
		a.sending.most, a.sending.each, a.sending.queue = sendingAll, sendingFor, sendingWaiting
	})
}

// stranger is what a request is counted by that no server has signed.
func (a *API) stranger(r *http.Request) string {
	if a.Stranger != nil {
		return a.Stranger(r)
	}
	return r.RemoteAddr
}

// Close ends the work on transactions whose senders have gone, and waits for it. What comes later is not begun.
func (a *API) Close() {
	a.start()
	a.cancel()
	a.mu.Lock()
	a.ended = true
	a.mu.Unlock()
	a.working.Wait()
}

// readingFor is the context of work that goes on without a request, for a server.
func (a *API) readingFor(server id.ServerName) context.Context {
	return context.WithValue(a.ctx, store.Asker{}, string(server))
}

// begin says whether work may begin that Close waits for; a.working.Done ends it.
func (a *API) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ended {
		a.working.Add(1)
	}
	return !a.ended
}

const (
	// answersKept is how long answers to transactions are remembered.
	answersKept = 24 * time.Hour
	// failuresKept is how long it is remembered that a server fails that nothing waits for.
	failuresKept = 30 * 24 * time.Hour
	// keysKept is how long keys are kept behind the end of their validity.
	keysKept = 365 * 24 * time.Hour
)

// Prune removes what is no longer needed. It is to be called about once an hour.
func (a *API) Prune(ctx context.Context) error {
	now := time.Now()
	for _, some := range []func(tx *store.Tx, limit int) (int64, error){
		func(tx *store.Tx, limit int) (int64, error) { return tx.Received.Prune(now.Add(-answersKept), limit) },
		func(tx *store.Tx, limit int) (int64, error) {
			return tx.Destinations.Prune(now.Add(-failuresKept), limit)
		},
		func(tx *store.Tx, limit int) (int64, error) { return tx.ServerKeys.Prune(now.Add(-keysKept), limit) },
		func(tx *store.Tx, limit int) (int64, error) {
			return tx.ServerKeys.PruneLists(now.Add(-keysKept), limit)
		},
	} {
		if err := a.Store.Prune(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

// list encodes events as they are, without decoding them first.
func list[E any](events []E, raw func(E) []byte) json.RawMessage {
	size := 2
	for _, e := range events {
		size += len(raw(e)) + 1
	}
	out := append(make([]byte, 0, size), '[')
	for i, e := range events {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, raw(e)...)
	}
	return append(out, ']')
}

func storedJSON(e *store.Event) []byte { return e.JSON }
