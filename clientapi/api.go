package clientapi

import (
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/clientsync"
	"github.com/securecomm/securecomm/homeserver/directory"
	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/media"
	"github.com/securecomm/securecomm/homeserver/push"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

// API serves the client-server API. Fill the fields, then call Register once.
type API struct {
	Server    id.ServerName
	Store     *store.DB
	Log       *slog.Logger
	Limits    Limits
	Account   *account.Service
	Rooms     *room.Engine
	Timeline  *timeline.Service
	Directory *directory.Service
	Keys      *keys.Service
	Push      *push.Service
	Media     *media.Service
	Ephemeral *ephemeral.Service
	Sync      *clientsync.Engine
	// Discovery is what the server says of itself under /.well-known/matrix.
	Discovery Discovery
	// Observe may be nil.
	Observe Observe
	// TrustedProxies may say in X-Forwarded-For whose request they pass on.
	TrustedProxies []netip.Prefix

	limiter  *limiter
	bodies   load.Stage // by user; of strangers by address or IPv6 network
	sockets  places
	syncs    places
	searches places
	wholes   places // answers that go out in pieces
	rooms    places // answers that hold the whole state of a room, or its members, while they are gathered
	pages    places // pages of a room's events, for which another server may be asked
	spaces   places // hierarchies, while they are gathered
	backups  places
	claims   places
	queries  places // of keys
	sends    places // of messages to devices: a client makes some of these calls at once
	signing  places
}

// routes is the table of all routes, in the order of the specification's modules.
func (a *API) routes() []route {
	return a.withFormerNames(slices.Concat(
		a.discoveryRoutes(),
		a.roomRoutes(),
		a.membershipRoutes(),
		a.stateRoutes(),
		a.memberRoutes(),
		a.timelineRoutes(),
		a.jumpRoutes(),
		a.relationRoutes(),
		a.threadRoutes(),
		a.searchRoutes(),
		a.directoryRoutes(),
		a.spaceRoutes(),
		a.summaryRoutes(),
		a.upgradeRoutes(),
		a.reportRoutes(),
		a.mutualRoutes(),
		a.registrationRoutes(),
		a.loginRoutes(),
		a.accountRoutes(),
		a.adminRoutes(),
		a.deviceRoutes(),
		a.profileRoutes(),
		a.accountDataRoutes(),
		a.thirdPartyRoutes(),
		a.toDeviceRoutes(),
		a.keyRoutes(),
		a.crossSigningRoutes(),
		a.keyBackupRoutes(),
		a.pushRoutes(),
		a.mediaRoutes(),
		a.syncRoutes(),
		a.receiptRoutes(),
		a.typingRoutes(),
		a.presenceRoutes(),
	))
}

// Register adds the routes to an Echo and makes it answer errors as the specification asks.
func (a *API) Register(e *echo.Echo) {
	a.limiter = newLimiter(a.Limits)
	a.sends.inLine, a.queries.inLine = sendsInLine, queriesInLine
	a.rooms.inLine, a.pages.inLine, a.spaces.inLine = gathersInLine, gathersInLine, gathersInLine
	a.bodies.Each, a.bodies.All = userLoad, allLoad
	e.HTTPErrorHandler = a.answerError
	e.Pre(a.around)
	for _, r := range a.routes() {
		a.add(e, r)
	}
}

func (a *API) add(e *echo.Echo, r route) {
	if r.limit == none && (r.auth == user || r.auth == admin) {
		r.limit = limitOther
	}
	handler := a.serve(r)
	for _, path := range r.paths() {
		e.Add(r.method, path, handler)
		if r.method == GET {
			e.Add(http.MethodHead, path, handler) // the body is left out where the answer is written
		}
	}
}

const prefix = "/_matrix/client"

// paths are the full paths under which a route is served. What is under v3 is also under r0, its name before version 1.1
// of the specification, and what has a version is also under unstable: released clients go on calling what was new in
// their time by the name that it had before it got one.
func (r route) paths() []string {
	if strings.HasPrefix(r.path, "/_") || strings.HasPrefix(r.path, "/.well-known/") {
		return []string{r.path}
	}
	all := []string{prefix + r.path}
	for version, former := range map[string][]string{"/v1/": {unstable}, "/v3/": {"/r0/", unstable}} {
		if rest, ok := strings.CutPrefix(r.path, version); ok {
			for _, f := range former {
				all = append(all, prefix+f+rest)
			}
		}
	}
	return all
}
