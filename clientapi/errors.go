package clientapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/directory"
	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/media"
	"github.com/securecomm/securecomm/homeserver/push"
	"github.com/securecomm/securecomm/homeserver/pushrule"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

// domainErrors is the one table of what an error of a domain package means to a client. The first line
// that matches by errors.Is counts. The text of the error is told to the client, as far as told lets it. What is not in the table is a fault of ours: status 500 and a line in the log.
var domainErrors = []struct {
	err    error
	status int
	code   string
}{
	{store.ErrUnavailable, http.StatusServiceUnavailable, "M_UNKNOWN"},
	{store.ErrClosed, http.StatusServiceUnavailable, "M_UNKNOWN"},
	{load.ErrBusy, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED"},
	{load.ErrTooLarge, http.StatusRequestEntityTooLarge, "M_TOO_LARGE"},
	{account.ErrUnknownToken, http.StatusUnauthorized, "M_UNKNOWN_TOKEN"},
	{account.ErrBadLogin, http.StatusForbidden, "M_FORBIDDEN"},
	{account.ErrDeactivated, http.StatusForbidden, "M_USER_DEACTIVATED"},
	{account.ErrRegistrationClosed, http.StatusForbidden, "M_FORBIDDEN"},
	{account.ErrForbidden, http.StatusForbidden, "M_FORBIDDEN"},
	{account.ErrUserInUse, http.StatusBadRequest, "M_USER_IN_USE"},
	{account.ErrInvalidUsername, http.StatusBadRequest, "M_INVALID_USERNAME"},
	{account.ErrWeakPassword, http.StatusBadRequest, "M_WEAK_PASSWORD"},
	{account.ErrNotFound, http.StatusNotFound, "M_NOT_FOUND"},
	{account.ErrProtected, http.StatusMethodNotAllowed, "M_BAD_JSON"},
	{account.ErrProfileTooLarge, http.StatusBadRequest, "M_PROFILE_TOO_LARGE"},
	{account.ErrKeyTooLarge, http.StatusBadRequest, "M_KEY_TOO_LARGE"},
	{account.ErrTooLarge, http.StatusRequestEntityTooLarge, "M_TOO_LARGE"},
	{account.ErrTooMany, http.StatusForbidden, "M_FORBIDDEN"},
	{account.ErrInvalidParam, http.StatusBadRequest, "M_INVALID_PARAM"},
	{room.ErrNotFound, http.StatusNotFound, "M_NOT_FOUND"},
	{room.ErrEventNotFound, http.StatusNotFound, "M_NOT_FOUND"},
	{room.ErrForbidden, http.StatusForbidden, "M_FORBIDDEN"},
	{room.ErrUnknownVersion, http.StatusBadRequest, "M_UNSUPPORTED_ROOM_VERSION"},
	{room.ErrBadAnswer, http.StatusBadGateway, "M_UNKNOWN"},
	{room.ErrUnreachable, http.StatusBadGateway, "M_UNKNOWN"},
	{room.ErrTooMany, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED"},
	{room.ErrCannotAuthorize, http.StatusForbidden, "M_FORBIDDEN"},
	{room.ErrCannotGrant, http.StatusForbidden, "M_FORBIDDEN"},
	{room.ErrDuplicate, http.StatusBadRequest, "M_DUPLICATE_ANNOTATION"},
	{room.ErrNoThreadRoot, http.StatusBadRequest, "M_UNKNOWN"},
	{room.ErrBadRequest, http.StatusBadRequest, "M_INVALID_PARAM"},
	{event.ErrTooLarge, http.StatusRequestEntityTooLarge, "M_TOO_LARGE"},
	{event.ErrMalformed, http.StatusBadRequest, "M_BAD_JSON"},
	{directory.ErrNotFound, http.StatusNotFound, "M_NOT_FOUND"},
	{directory.ErrNoRoom, http.StatusNotFound, "M_NOT_FOUND"},
	{directory.ErrTaken, http.StatusConflict, "M_UNKNOWN"},
	{directory.ErrForbidden, http.StatusForbidden, "M_FORBIDDEN"},
	{directory.ErrOtherAlias, http.StatusBadRequest, "M_INVALID_PARAM"},
	{directory.ErrTooMany, http.StatusForbidden, "M_RESOURCE_LIMIT_EXCEEDED"},
	{directory.ErrBadQuery, http.StatusBadRequest, "M_INVALID_PARAM"},
	{timeline.ErrForbidden, http.StatusForbidden, "M_FORBIDDEN"},
	{timeline.ErrNotFound, http.StatusNotFound, "M_NOT_FOUND"},
	{timeline.ErrBadRequest, http.StatusBadRequest, "M_INVALID_PARAM"},
	{timeline.ErrTooLarge, http.StatusRequestEntityTooLarge, "M_TOO_LARGE"},
	{ephemeral.ErrInvalid, http.StatusBadRequest, "M_INVALID_PARAM"},
	{stream.ErrBadToken, http.StatusBadRequest, "M_INVALID_PARAM"},
	{filter.ErrInvalid, http.StatusBadRequest, "M_BAD_JSON"},
	{pushrule.ErrNotFound, http.StatusNotFound, "M_NOT_FOUND"},
	{pushrule.ErrInvalid, http.StatusBadRequest, "M_INVALID_PARAM"},
	{pushrule.ErrTooLarge, http.StatusRequestEntityTooLarge, "M_TOO_LARGE"},
	{pushrule.ErrNoNeighbour, http.StatusBadRequest, "M_UNKNOWN"},
	{push.ErrBadPusher, http.StatusBadRequest, "M_INVALID_PARAM"},
	{keys.ErrMissing, http.StatusBadRequest, "M_BAD_JSON"},
	{keys.ErrInvalid, http.StatusBadRequest, "M_INVALID_PARAM"},
	{keys.ErrNotOwn, http.StatusBadRequest, "M_INVALID_PARAM"},
	{keys.ErrNotFound, http.StatusNotFound, "M_NOT_FOUND"},
	{keys.ErrTooLarge, http.StatusRequestEntityTooLarge, "M_TOO_LARGE"},
	{keys.ErrKeyExists, http.StatusBadRequest, "M_INVALID_PARAM"},
	{keys.ErrIdentityFixed, http.StatusBadRequest, "M_INVALID_PARAM"},
	{keys.ErrInvalidSignature, http.StatusBadRequest, "M_INVALID_SIGNATURE"},
	{keys.ErrNoMasterKey, http.StatusBadRequest, "M_MISSING_PARAM"},
	{keys.ErrKeyInUse, http.StatusForbidden, "M_FORBIDDEN"},
	{media.ErrNotFound, http.StatusNotFound, "M_NOT_FOUND"},
	{media.ErrTooLarge, http.StatusRequestEntityTooLarge, "M_TOO_LARGE"},
	{media.ErrRemoteTooLarge, http.StatusBadGateway, "M_TOO_LARGE"},
	{media.ErrRemote, http.StatusBadGateway, "M_UNKNOWN"},
	{media.ErrNotYetUploaded, http.StatusGatewayTimeout, "M_NOT_YET_UPLOADED"},
	{media.ErrOverwrite, http.StatusConflict, "M_CANNOT_OVERWRITE_MEDIA"},
	{media.ErrNotYours, http.StatusForbidden, "M_FORBIDDEN"},
	{media.ErrQuota, http.StatusForbidden, "M_FORBIDDEN"},
	{media.ErrTooManyPending, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED"},
	{media.ErrCrowded, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED"},
	{media.ErrNoThumbnail, http.StatusBadRequest, "M_UNKNOWN"},
	{media.ErrNoPreviews, http.StatusNotFound, "M_UNRECOGNIZED"},
	{media.ErrBadAddress, http.StatusBadRequest, "M_INVALID_PARAM"},
	{media.ErrPreviewFailed, http.StatusBadGateway, "M_UNKNOWN"},
	{id.ErrInvalid, http.StatusBadRequest, "M_INVALID_PARAM"},
	{store.ErrText, http.StatusBadRequest, "M_INVALID_PARAM"},
	{context.DeadlineExceeded, http.StatusGatewayTimeout, "M_UNKNOWN"},
}

// retryAfter is when a client may try again what failed for a fault of the database or a disk.
const retryAfter = 10 * time.Second

// spread makes a time up to twice as long by chance, so that not all who are told one come back at once.
func spread(d time.Duration) time.Duration { return d + rand.N(d) }

// told is the text of an error for a client. What went wrong on the way to another server, or in the database, is not
// told: it could name addresses of the network that this one is in, or how things are stored.
func told(err, as error) string {
	switch as {
	case room.ErrUnreachable:
		if keyless := (*room.KeylessError)(nil); errors.As(err, &keyless) {
			return keyless.Error()
		}
		return as.Error()
	case context.DeadlineExceeded, store.ErrText, store.ErrUnavailable, store.ErrClosed:
		return as.Error()
	}
	return err.Error()
}

// failure is an error as a client gets it.
type failure struct {
	status  int
	code    string
	message string
	extra   map[string]any // further members of the answer
	after   time.Duration  // when to try again, if that may help
}

func (f *failure) Error() string { return f.code + ": " + f.message }

// fail makes an error of the edge itself: a request that no domain method can be called with.
func fail(status int, code, message string) error {
	return &failure{status: status, code: code, message: message}
}

// failWith is fail with further members in the answer.
func failWith(status int, code, message string, extra map[string]any) error {
	return &failure{status: status, code: code, message: message, extra: extra}
}

var (
	errNotJSON = fail(http.StatusBadRequest, "M_NOT_JSON", "the body is not valid JSON")
	errCut     = fail(http.StatusBadRequest, "M_NOT_JSON", "the body ended too early")
)

// missing is the error for a required member or parameter that was not given.
func missing(name string) error {
	return fail(http.StatusBadRequest, "M_MISSING_PARAM", name+" is missing")
}

// asFailure looks an error up; nil if it is a fault of ours.
func asFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	var challenge *account.Challenge
	if errors.As(err, &challenge) {
		return asChallenge(challenge)
	}
	if errors.Is(err, account.ErrTokenExpired) {
		return &failure{status: http.StatusUnauthorized, code: "M_UNKNOWN_TOKEN", message: err.Error(), extra: map[string]any{"soft_logout": true}}
	}
	var version *room.IncompatibleVersion
	if errors.As(err, &version) {
		return &failure{
			status: http.StatusBadRequest, code: "M_INCOMPATIBLE_ROOM_VERSION", extra: map[string]any{"room_version": version.Version},
			message: fmt.Sprintf("the room is of version %q, which this server does not support", version.Version),
		}
	}
	for _, d := range domainErrors {
		if errors.Is(err, d.err) {
			f := &failure{status: d.status, code: d.code, message: told(err, d.err)}
			switch d.status {
			case http.StatusServiceUnavailable:
				f.after = spread(retryAfter)
			case http.StatusTooManyRequests:
				f.after = spread(time.Second)
			}
			return f
		}
	}
	var h *echo.HTTPError
	if errors.As(err, &h) {
		switch h.Code {
		case http.StatusNotFound:
			return &failure{status: h.Code, code: "M_UNRECOGNIZED", message: "there is no such endpoint"}
		case http.StatusMethodNotAllowed:
			return &failure{status: h.Code, code: "M_UNRECOGNIZED", message: "this endpoint has no such method"}
		case http.StatusRequestEntityTooLarge:
			return &failure{status: h.Code, code: "M_TOO_LARGE", message: "the request is too large"}
		default:
			return &failure{status: h.Code, code: "M_UNKNOWN", message: http.StatusText(h.Code)}
		}
	}
	return nil
}

// asChallenge asks for interactive authentication (Client-Server API, "User-Interactive Authentication API").
func asChallenge(c *account.Challenge) *failure {
	type flow struct {
		Stages []string `json:"stages"`
	}
	flows := make([]flow, len(c.Flows))
	for i, stages := range c.Flows {
		flows[i].Stages = stages
	}
	f := &failure{status: http.StatusUnauthorized, extra: map[string]any{
		"session": c.Session, "flows": flows, "params": map[string]any{}, "completed": []string{},
	}}
	if c.Err == nil {
		return f
	}
	f.code, f.message = "M_UNKNOWN", c.Err.Error()
	for _, d := range domainErrors {
		if errors.Is(c.Err, d.err) {
			f.code = d.code
			break
		}
	}
	return f
}

// answerError is Echo's error handler.
func (a *API) answerError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	if errors.Is(err, account.ErrBadLogin) {
		a.Log.Warn("a sign-in failed", "address", c.RealIP(), "request", c.Response().Header().Get(requestID), "route", c.Path())
	}
	f := asFailure(err)
	if f == nil {
		if c.Request().Context().Err() == nil {
			a.Log.Error("a request failed", "request", c.Response().Header().Get(requestID), "method", c.Request().Method, "route", c.Path(), "err", err)
		}
		f = &failure{status: http.StatusInternalServerError, code: "M_UNKNOWN", message: "internal error; the server's log says more"}
	}
	if errors.Is(err, room.ErrUnreachable) {
		a.Log.Info("another server could not be reached", "request", c.Response().Header().Get(requestID), "method", c.Request().Method, "route", c.Path(), "err", err)
	}
	body := map[string]any{"errcode": f.code, "error": f.message}
	if f.code == "" {
		body = map[string]any{}
	}
	maps.Copy(body, f.extra)
	if f.after > 0 {
		c.Response().Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(f.after.Seconds()))))
		body["retry_after_ms"] = (f.after + time.Millisecond - 1).Milliseconds() // never too early
	}
	raw, err := json.Marshal(body)
	if err != nil {
		a.Log.Error("an error cannot be encoded", "err", err)
		raw = []byte(`{"errcode":"M_UNKNOWN"}`)
	}
	_ = writeAnswer(&call{Context: c}, status{f.status, json.RawMessage(raw)}) // always nil
}
