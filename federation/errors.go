package federation

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/securecomm/securecomm/federation/keyring"
	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/directory"
	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/media"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

// domainErrors is the one table of what an error of a domain package means to another server. The first
// line that matches by errors.Is counts. What is not in it is a fault of ours: status 500 and a line in the log.
var domainErrors = []struct {
	err    error
	status int
	code   string
}{
	{store.ErrClosed, http.StatusServiceUnavailable, "M_UNKNOWN"},
	{store.ErrUnavailable, http.StatusServiceUnavailable, "M_UNKNOWN"},
	{keyring.ErrUnreachable, http.StatusServiceUnavailable, "M_UNKNOWN"},
	{store.ErrText, http.StatusBadRequest, "M_INVALID_PARAM"},
	{room.ErrCannotAuthorize, http.StatusBadRequest, "M_UNABLE_TO_AUTHORISE_JOIN"},
	{room.ErrCannotGrant, http.StatusBadRequest, "M_UNABLE_TO_GRANT_JOIN"},
	{room.ErrForbidden, http.StatusForbidden, "M_FORBIDDEN"},
	{room.ErrNotFound, http.StatusNotFound, "M_NOT_FOUND"},
	{room.ErrEventNotFound, http.StatusNotFound, "M_NOT_FOUND"},
	{room.ErrUnknownVersion, http.StatusBadRequest, "M_INCOMPATIBLE_ROOM_VERSION"},
	{room.ErrBadRequest, http.StatusBadRequest, "M_INVALID_PARAM"},
	{room.ErrUnreachable, http.StatusBadGateway, "M_UNKNOWN"},
	{room.ErrBadAnswer, http.StatusBadGateway, "M_UNKNOWN"},
	{room.ErrTooMany, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED"},
	{room.ErrBusy, http.StatusServiceUnavailable, "M_UNKNOWN"},
	{load.ErrTooLarge, http.StatusRequestEntityTooLarge, "M_TOO_LARGE"},
	{event.ErrTooLarge, http.StatusRequestEntityTooLarge, "M_TOO_LARGE"},
	{event.ErrMalformed, http.StatusBadRequest, "M_BAD_JSON"},
	{timeline.ErrNotFound, http.StatusNotFound, "M_NOT_FOUND"},
	{sign.ErrNotSigned, http.StatusForbidden, "M_FORBIDDEN"},
	{sign.ErrBadSignature, http.StatusForbidden, "M_FORBIDDEN"},
	{account.ErrNotFound, http.StatusNotFound, "M_NOT_FOUND"},
	{account.ErrUnknownToken, http.StatusUnauthorized, "M_UNKNOWN_TOKEN"},
	{keys.ErrNotFound, http.StatusNotFound, "M_NOT_FOUND"},
	{keys.ErrNotOwn, http.StatusForbidden, "M_FORBIDDEN"},
	{keys.ErrTooLarge, http.StatusRequestEntityTooLarge, "M_TOO_LARGE"},
	{keys.ErrInvalid, http.StatusBadRequest, "M_INVALID_PARAM"},
	{keys.ErrMissing, http.StatusBadRequest, "M_MISSING_PARAM"},
	{keys.ErrInvalidSignature, http.StatusBadRequest, "M_INVALID_SIGNATURE"},
	{ephemeral.ErrInvalid, http.StatusBadRequest, "M_INVALID_PARAM"},
	{directory.ErrNotFound, http.StatusNotFound, "M_NOT_FOUND"},
	{directory.ErrNoRoom, http.StatusNotFound, "M_NOT_FOUND"},
	{directory.ErrBadQuery, http.StatusBadRequest, "M_INVALID_PARAM"},
	{media.ErrNotFound, http.StatusNotFound, "M_NOT_FOUND"},
	{media.ErrNotYetUploaded, http.StatusGatewayTimeout, "M_NOT_YET_UPLOADED"},
	{media.ErrTooLarge, http.StatusBadGateway, "M_TOO_LARGE"},
	{media.ErrNoThumbnail, http.StatusBadRequest, "M_UNKNOWN"},
	{id.ErrInvalid, http.StatusBadRequest, "M_INVALID_PARAM"},
	{canonicaljson.ErrInvalid, http.StatusBadRequest, "M_BAD_JSON"},
	{context.DeadlineExceeded, http.StatusGatewayTimeout, "M_UNKNOWN"},
	{context.Canceled, http.StatusServiceUnavailable, "M_UNKNOWN"},
}

// failure is an error as another server gets it.
type failure struct {
	status  int
	code    string
	message string
	extra   map[string]any // further members of the answer
}

func (f *failure) Error() string { return f.code + ": " + f.message }

// fail makes an error of the edge itself: a request that no domain method can be called with.
func fail(status int, code, message string) error {
	return &failure{status: status, code: code, message: message}
}

var errUnrecognized = fail(http.StatusNotFound, "M_UNRECOGNIZED", "there is no such endpoint")

func tooBusy() error {
	return &failure{status: http.StatusTooManyRequests, code: "M_LIMIT_EXCEEDED", message: load.ErrBusy.Error(), extra: map[string]any{"retry_after_ms": 1000 + rand.Int64N(1000)}}
}

// asFailure looks an error up; nil if it is a fault of ours.
func asFailure(err error) *failure {
	if errors.Is(err, load.ErrBusy) {
		err = tooBusy()
	}
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	var version *room.IncompatibleVersion
	if errors.As(err, &version) {
		return &failure{http.StatusBadRequest, "M_INCOMPATIBLE_ROOM_VERSION", version.Error(), map[string]any{"room_version": version.Version}}
	}
	for _, d := range domainErrors {
		if errors.Is(err, d.err) {
			message := err.Error()
			switch d.err {
			case room.ErrUnreachable, context.DeadlineExceeded, store.ErrUnavailable, store.ErrClosed:
				message = d.err.Error() // the whole could name addresses of the network that this server is in, or statements
			}
			return &failure{status: d.status, code: d.code, message: message}
		}
	}
	var refusal *eventauth.Refusal
	if errors.As(err, &refusal) {
		return &failure{status: http.StatusForbidden, code: "M_FORBIDDEN", message: err.Error()}
	}
	var h *echo.HTTPError
	if errors.As(err, &h) {
		switch h.Code {
		case http.StatusNotFound, http.StatusMethodNotAllowed:
			return &failure{status: h.Code, code: "M_UNRECOGNIZED", message: "there is no such endpoint, or it has no such method"}
		default:
			return &failure{status: h.Code, code: "M_UNKNOWN", message: http.StatusText(h.Code)}
		}
	}
	return nil
}

// AnswerError answers an error as the specification asks. It can be the error handler of an Echo that serves
// nothing but the federation.
func (a *API) AnswerError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	f := asFailure(err)
	if f == nil {
		a.Log.Error("a request of another server failed", "request", c.Response().Header().Get(requestID), "method", c.Request().Method, "route", c.Path(), "err", err)
		f = &failure{status: http.StatusInternalServerError, code: "M_UNKNOWN", message: "internal error; the server's log says more"}
	}
	body := map[string]any{"errcode": f.code, "error": f.message}
	maps.Copy(body, f.extra)
	raw, err := json.Marshal(body)
	if err != nil {
		raw = []byte(`{"errcode":"M_UNKNOWN"}`)
	}
	if f.status == http.StatusServiceUnavailable {
		c.Response().Header().Set("Retry-After", "10")
	}
	if ms, ok := f.extra["retry_after_ms"].(int64); ok {
		c.Response().Header().Set("Retry-After", strconv.FormatInt((ms+999)/1000, 10))
	}
	_ = c.Blob(f.status, "application/json", raw) // the other server has gone: there is nobody to tell
}
