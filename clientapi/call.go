package clientapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
)

// Limits of JSON bodies, in bytes. Routes for bulk data use decodeUpTo.
const (
	maxBody = 1 << 20
	// maxSmallBody is how large one may be of who is not signed in, or of what has a few short members.
	maxSmallBody = load.Free
)

// Limits of the memory that bodies of more than load.Free take up, in bytes.
const (
	userLoad = 32 << 20  // of one user, unless it is a single one
	allLoad  = 256 << 20 // of all users
)

// call is one request on its way through a handler.
type call struct {
	echo.Context
	// Requester is who asks; empty on public routes.
	Requester account.Requester

	// answered, if not nil, is to be closed once the answer has gone out: until then, the sender's device is not shown by
	// /sync what it sent, since many clients could not tell that it is their own.
	answered chan struct{}

	counts  *limiter     // counts a large body as several calls; nil where no body is kept
	bodies  *load.Stage  // nil where nothing is read
	charge  *load.Charge // of the body, unless it is small
	answers *load.Stage  // nil where answers are not charged
	answer  *load.Charge // of the answer, unless it is small

	values   url.Values
	unstable []*unstableParameter // those that came
}

// body reads the request's body up to a size. Once it is here, the limit on its time is lifted: it is none on the
// answer's.
func (c *call) body(limit int64) ([]byte, error) {
	r := c.Request()
	if r.ContentLength > limit {
		return nil, load.ErrTooLarge
	}
	if r.ContentLength == 0 || r.Body == nil {
		return nil, nil
	}
	if n := r.ContentLength; n < 0 || n > load.Free {
		return c.largeBody(limit)
	}
	data := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, data); err != nil {
		return nil, errCut
	}
	_ = http.NewResponseController(c.Response()).SetReadDeadline(time.Time{})
	if len(data) > load.Ordinary {
		return data, c.countBytes(len(data))
	}
	return data, nil
}

// countBytes counts a body as several calls if it is large, and kept. All that clients write passes here, the websocket's
// requests apart.
func (c *call) countBytes(size int) error {
	if c.counts == nil {
		return nil
	}
	return c.counts.checkMore(limitMessage, c, load.MoreCalls(size))
}

// largeBody reads a body that is charged: while it arrives, by what has come, and it may have to make room for those who
// have less; then, with what it takes up when it is decoded, until it is answered.
func (c *call) largeBody(limit int64) ([]byte, error) {
	deadline := func(t time.Time) { _ = http.NewResponseController(c.Response()).SetReadDeadline(t) } // tests have no connection
	if c.charge == nil {                                                                              // else this is the second time, and nothing more comes
		c.charge = c.bodies.Charge(c.who(), func() { deadline(time.Now()) })
	}
	data, err := load.Read(c.Request().Body, limit, c.charge, deadline)
	if errors.Is(err, load.ErrBusy) || errors.Is(err, load.ErrTooLarge) {
		return nil, err
	}
	if err != nil {
		return nil, errCut
	}
	c.charge.Losable(nil)
	_, commas := canonicaljson.Commas(data)
	if err := c.charge.Grow(int64(len(data) + load.Value*commas)); err != nil {
		return nil, err
	}
	deadline(time.Time{})
	return data, c.countBytes(len(data))
}

// who is the one that what the request takes up is charged to.
func (c *call) who() string {
	if c.Requester.User == "" {
		return network(c.RealIP())
	}
	return string(c.Requester.User)
}

// answering charges an answer with what it takes up until it is read. From then on it makes room for those who have less.
func (c *call) answering(size int64) error {
	if c.answers == nil || size <= load.Free {
		return nil
	}
	if c.answer == nil {
		c.answer = c.answers.Charge(c.who(), func() { _ = http.NewResponseController(c.Response()).SetWriteDeadline(time.Now()) })
		c.Response().Writer = &losable{c.Response().Writer, c.answer.Over}
	}
	return c.answer.Grow(size)
}

// decode reads the body, a JSON object, into a struct or map. No body is an empty object.
func (c *call) decode(into any) error {
	if c.Requester.User == "" {
		return c.decodeUpTo(maxSmallBody, into)
	}
	return c.decodeUpTo(maxBody, into)
}

// decodeUpTo is decode with another limit than maxBody.
func (c *call) decodeUpTo(limit int64, into any) error {
	data, err := c.body(limit)
	if err != nil {
		return err
	}
	if len(data) == 0 {
		return nil
	}
	return unmarshal(data, into)
}

// object reads the body, which must be a JSON object, and returns its bytes.
func (c *call) object(limit int64) (json.RawMessage, error) {
	data, err := c.body(limit)
	if err != nil {
		return nil, err
	}
	return data, checkObject(data)
}

func checkObject(data []byte) error {
	if !json.Valid(data) || !utf8.Valid(data) {
		return errNotJSON
	}
	if !isObject(data) {
		return fail(http.StatusBadRequest, "M_BAD_JSON", "the body must be a JSON object")
	}
	return nil
}

func unmarshal(data []byte, into any) error {
	if !utf8.Valid(data) {
		return errNotJSON
	}
	err := json.Unmarshal(data, into)
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case err == nil && !isObject(data):
		return fail(http.StatusBadRequest, "M_BAD_JSON", "the body must be a JSON object")
	case err == nil:
		return nil
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return fail(http.StatusBadRequest, "M_BAD_JSON", "wrong type of "+wrongType.Field)
	case errors.As(err, &syntax):
		return errNotJSON
	default:
		return fail(http.StatusBadRequest, "M_BAD_JSON", "the body does not have the form that this endpoint needs")
	}
}

func isObject(data []byte) bool {
	for _, b := range data {
		if b != ' ' && b != '\t' && b != '\n' && b != '\r' {
			return b == '{'
		}
	}
	return false
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

// roomID is the room in the path.
func (c *call) roomID() (id.RoomID, error) { return id.ParseRoomID(c.path("roomId")) }

// userID is the user in the path.
func (c *call) userID() (id.UserID, error) { return id.ParseUserID(c.path("userId")) }

// eventID is the event in the path.
func (c *call) eventID() (id.EventID, error) { return id.ParseEventID(c.path("eventId")) }

// ownUserID is the user in the path, who has to be the one who asks.
func (c *call) ownUserID() (id.UserID, error) {
	u, err := c.userID()
	if err != nil {
		return "", err
	}
	if u != c.Requester.User {
		return "", fail(http.StatusForbidden, "M_FORBIDDEN", "this belongs to another user")
	}
	return u, nil
}

func (c *call) queries() url.Values {
	if c.values == nil {
		c.values = c.Request().URL.Query()
		c.stabilize()
	}
	return c.values
}

// query is the first value of a query parameter; empty if there is none.
func (c *call) query(name string) string {
	if c.Request().URL.RawQuery == "" {
		return ""
	}
	return c.queries().Get(name)
}

// boolQuery is a query parameter that is true or false; def if it is not given.
func (c *call) boolQuery(name string, def bool) (bool, error) {
	switch c.query(name) {
	case "":
		return def, nil
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fail(http.StatusBadRequest, "M_INVALID_PARAM", name+" must be true or false")
}

// intQuery is a query parameter that is a number from 0, cut at max; def if it is not given.
func (c *call) intQuery(name string, def, max int) (int, error) {
	s := c.query(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if errors.Is(err, strconv.ErrRange) && n > 0 {
		return max, nil
	}
	if err != nil || n < 0 {
		return 0, fail(http.StatusBadRequest, "M_INVALID_PARAM", name+" must be a number from 0")
	}
	return min(n, max), nil
}
