package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/securecomm/securecomm/federation/xmatrix"
	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Methods, short enough for a table.
const (
	GET  = http.MethodGet
	PUT  = http.MethodPut
	POST = http.MethodPost
)

// auth says who may call a route.
type auth uint8

const (
	public auth = iota // anyone
	signed             // servers, by a signature
)

func (a auth) String() string { return [...]string{"public", "signed"}[a] }

// Limits of request bodies, in bytes.
const (
	none        = 0
	small       = 1 << 20
	transaction = 16 << 20 // 50 PDUs and 100 EDUs of 64 KiB, and some room
)

// route is a line of the table. The path stands behind /_matrix/federation unless it begins with "/_".
type route struct {
	method, path string
	auth         auth
	body         int64
	// handle returns what is answered with status 200 as JSON; nil is an empty object, a json.RawMessage is
	// passed through. A handler that has already written its answer returns nil.
	handle func(*call) (any, error)
}

// Limits of the memory that requests take up, in bytes.
const (
	senderLoad = 64 << 20  // of one sender, unless it is a single request
	allLoad    = 512 << 20 // of all requests
)

// call is one request on its way through a handler.
type call struct {
	echo.Context
	// Origin is the server that asks; empty on public routes.
	Origin id.ServerName

	raw    []byte // the body
	work   *load.Charge
	values url.Values
}

// serve is all that happens to a request around its handler.
func (a *API) serve(r route) echo.HandlerFunc {
	return func(c echo.Context) error {
		k := &call{Context: c}
		if err := a.handle(k, r); err != nil {
			a.AnswerError(err, c)
		}
		return nil
	}
}

func (a *API) handle(k *call, r route) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			err = fmt.Errorf("panic in %s %s: %v\n%s", r.method, r.path, p, debug.Stack())
		}
	}()
	request := k.Request()
	var claim xmatrix.Header
	who := a.stranger(request)
	request = request.WithContext(context.WithValue(request.Context(), store.Asker{}, who))
	k.SetRequest(request)
	if r.auth == signed {
		if claim, err = a.claim(request); err != nil {
			return err
		}
		err = a.meet(request, claim, who)
	} else {
		err = a.pace.check(who)
	}
	if err != nil {
		return err
	}
	// Tests have no connection, and no deadline either.
	deadline := func(t time.Time) { _ = http.NewResponseController(k.Response()).SetReadDeadline(t) }
	arriving := a.arriving.Charge(who, func() { deadline(time.Now()) })
	defer arriving.End()
	if k.raw, err = readBody(request, r.body, arriving, deadline); err != nil {
		return err
	}
	if k.raw != nil {
		// It is here: the limit on its time is no limit on the answer's.
		deadline(time.Time{})
	}
	shallow, all := canonicaljson.Commas(k.raw)
	if r.body == transaction && shallow > maxUnits {
		return errTooMany
	}
	cost := int64(len(k.raw) + load.Value*all)
	if err := arriving.Grow(cost); err != nil {
		return err
	}
	if r.auth == signed {
		if err := a.authenticate(k, claim, who); err != nil {
			return err
		}
		who = string(k.Origin)
		k.SetRequest(request.WithContext(context.WithValue(request.Context(), store.Asker{}, who)))
		if err := a.pace.check(who); err != nil {
			return err
		}
	}
	// From here on, it counts as its sender's.
	k.work = a.inWork.Charge(who, nil)
	if err := k.work.Grow(cost); err != nil {
		return err
	}
	arriving.End()
	defer func() {
		if k.work.Claim() {
			k.work.End()
		}
	}()
	answer, err := r.handle(k)
	if err != nil || k.Response().Committed {
		return err
	}
	if whole, ok := answer.(*large); ok {
		return a.answerLarge(k, whole, cost)
	}
	return k.answer(answer, cost)
}

// Limits of costly requests at a time: of all servers, of one, and how many more of one may wait for their turn.
const (
	costlyAll     = 32
	costlyFor     = 4
	costlyWaiting = 64
)

// inTurn is for handlers whose answers take much work, as of what describes a whole room: a server has few of them at a time.
func (a *API) inTurn(handle func(*call) (any, error)) func(*call) (any, error) {
	return func(c *call) (any, error) {
		r := c.Request()
		ctx, lose := context.WithCancel(r.Context())
		defer lose()
		leave, err := a.costly.enterLosable(ctx, string(c.Origin), lose)
		if err != nil {
			return nil, err
		}
		defer leave()
		c.SetRequest(r.WithContext(ctx))
		defer c.SetRequest(r)
		return handle(c)
	}
}

// readBody reads a request's body up to a limit; nil if there is none.
func readBody(r *http.Request, limit int64, charge *load.Charge, deadline func(time.Time)) ([]byte, error) {
	if r.Body == nil || r.ContentLength == 0 {
		return nil, nil
	}
	limit = max(limit, 4096) // some servers send an empty object where there should be nothing
	if r.ContentLength > limit {
		return nil, load.ErrTooLarge
	}
	body, err := load.Read(r.Body, limit, charge, deadline)
	switch {
	case errors.Is(err, load.ErrBusy), errors.Is(err, load.ErrTooLarge):
		return nil, err
	case err != nil:
		return nil, fail(http.StatusBadRequest, "M_NOT_JSON", "the body ended too early")
	case len(body) == 0:
		return nil, nil
	}
	return body, nil
}

// answer encodes an answer and sends it. It counts as its asker's until it is read, besides what the request cost.
func (c *call) answer(answer any, cost int64) error {
	if answer == nil {
		answer = json.RawMessage("{}")
	}
	raw, ok := answer.(json.RawMessage)
	if !ok {
		var buffer bytes.Buffer
		encoder := json.NewEncoder(&buffer)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(answer); err != nil {
			return fmt.Errorf("encode an answer: %w", err)
		}
		raw = bytes.TrimSuffix(buffer.Bytes(), []byte("\n"))
	}
	if !c.work.Claimed() {
		if err := c.writing(cost + int64(len(raw))); err != nil {
			return err
		}
	}
	c.begin()
	for len(raw) > 0 {
		n := min(len(raw), answerPiece)
		if err := c.write(raw[:n]); err != nil {
			panic(http.ErrAbortHandler) // or what came would pass for the whole
		}
		raw = raw[n:]
	}
	return nil
}

// answerPiece is how much of an answer is written at once, in bytes, until it is looked whether it was dropped.
const answerPiece = 64 << 10

// writing charges an answer that is going to be written: from now on its connection ends once others need the room and
// nobody has more of it.
func (c *call) writing(cost int64) error {
	c.work.Losable(func() { _ = http.NewResponseController(c.Response()).SetWriteDeadline(time.Now()) })
	return c.work.Grow(cost)
}

func (c *call) begin() {
	c.Response().Header().Set("Content-Type", "application/json")
	c.Response().WriteHeader(http.StatusOK)
}

// write writes a piece of an answer.
func (c *call) write(p []byte) error {
	if c.work.Over() {
		return load.ErrBusy
	}
	_, err := c.Response().Write(p)
	return err
}

// decode reads the body, which must be a JSON object.
func (c *call) decode(into any) error {
	if err := json.Unmarshal(c.raw, into); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) || len(c.raw) == 0 {
			return fail(http.StatusBadRequest, "M_NOT_JSON", "the body is not valid JSON")
		}
		return fail(http.StatusBadRequest, "M_BAD_JSON", "the body does not have the form that this endpoint needs")
	}
	return nil
}

// path is a parameter of the path, unescaped.
func (c *call) path(name string) string {
	value := c.Param(name)
	if c.Request().URL.RawPath == "" {
		return value // Go has already unescaped the path
	}
	if unescaped, err := url.PathUnescape(value); err == nil {
		return unescaped
	}
	return value
}

func (c *call) roomID() (id.RoomID, error)   { return id.ParseRoomID(c.path("roomId")) }
func (c *call) userID() (id.UserID, error)   { return id.ParseUserID(c.path("userId")) }
func (c *call) eventID() (id.EventID, error) { return id.ParseEventID(c.path("eventId")) }

// roomAndEvent are the room and the event in the path.
func (c *call) roomAndEvent() (id.RoomID, id.EventID, error) {
	room, err := c.roomID()
	if err != nil {
		return "", "", err
	}
	event, err := c.eventID()
	return room, event, err
}

// query is the first value of a query parameter; empty if there is none.
func (c *call) query(name string) string {
	return c.queries().Get(name)
}

// needs refuses a request without a query parameter.
func (c *call) needs(names ...string) error {
	for _, name := range names {
		if !c.queries().Has(name) {
			return missing(name)
		}
	}
	return nil
}

func missing(name string) error {
	return fail(http.StatusBadRequest, "M_MISSING_PARAM", name+" is needed")
}

func (c *call) queries() url.Values {
	if c.values == nil {
		c.values = c.Request().URL.Query()
	}
	return c.values
}

// intQuery is a query parameter that is a number from 0; def if it is not given.
func (c *call) intQuery(name string, def int64) (int64, error) {
	s := c.query(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fail(http.StatusBadRequest, "M_INVALID_PARAM", name+" must be a number from 0")
	}
	return n, nil
}
