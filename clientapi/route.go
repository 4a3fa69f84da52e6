package clientapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Methods, short enough for a table.
const (
	GET    = http.MethodGet
	PUT    = http.MethodPut
	POST   = http.MethodPost
	DELETE = http.MethodDelete
)

// auth says who may call a route.
type auth uint8

const (
	public   auth = iota // anyone
	optional             // anyone; who gives a token is known
	user                 // users with a valid access token
	admin                // server administrators
)

func (a auth) String() string { return [...]string{"public", "optional", "user", "admin"}[a] }

// route is a line of the table. The path stands behind /_matrix/client unless it begins with "/_" or
// "/.well-known/".
type route struct {
	method, path string
	auth         auth
	limit        limitClass
	// handle returns what is answered with status 200 as JSON; nil is an empty object, a
	// json.RawMessage is passed through, a status is answered as it says. A handler that has
	// already written its answer returns nil.
	handle func(*call) (any, error)
}

// status is an answer with another status than 200.
type status struct {
	code int
	body any
}

// Shared by all answers; never changed.
var (
	allowOrigin  = []string{"*"}
	allowMethods = []string{"GET, POST, PUT, DELETE, PATCH, OPTIONS"}
	allowHeaders = []string{"X-Requested-With, Content-Type, Authorization, Date"}
	jsonType     = []string{"application/json"}
	emptyObject  = json.RawMessage("{}")
)

// around is what happens to every request, also to one that no route is for: web clients of any origin are let in
// (Client-Server API, "Web Browser Clients"), and Observe and the log are told.
func (a *API) around(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		began := time.Now()
		h := c.Response().Header()
		h["Access-Control-Allow-Origin"] = allowOrigin
		if c.Request().Method == http.MethodOptions {
			h["Access-Control-Allow-Methods"] = allowMethods
			h["Access-Control-Allow-Headers"] = allowHeaders
			return c.NoContent(http.StatusNoContent)
		}
		if err := next(c); err != nil {
			c.Error(err)
		}
		took := time.Since(began)
		if a.Observe != nil {
			a.Observe(c.Request().Method, c.Path(), c.Response().Status, took)
		}
		if a.Log.Enabled(c.Request().Context(), slog.LevelDebug) {
			a.Log.Debug("answered", "request", h.Get(requestID), "method", c.Request().Method, "route", c.Path(), "status", c.Response().Status, "took", took)
		}
		return nil
	}
}

// serve is all that happens to a request around its handler.
func (a *API) serve(r route) echo.HandlerFunc {
	var counts *limiter
	if r.limit == limitMessage || r.limit == limitJoin {
		counts = a.limiter // these are the routes that write events
	}
	return func(c echo.Context) (err error) {
		k := &call{Context: c, counts: counts, bodies: &a.bodies}
		if a.Sync != nil {
			k.answers = &a.Sync.Answers
		}
		defer func() {
			if k.charge != nil {
				k.charge.End()
			}
			if k.answer != nil {
				k.answer.End()
			}
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				err = fmt.Errorf("panic in %s %s: %v\n%s", r.method, r.path, p, debug.Stack())
			}
			if k.answered != nil {
				if err == nil {
					_ = http.NewResponseController(c.Response()).Flush() // to a client that has gone, nothing goes out
				}
				close(k.answered)
			}
		}()
		if err := a.authenticate(k, r.auth); err != nil {
			return err
		}
		if err := a.limiter.check(r.limit, k); err != nil {
			return err
		}
		answer, err := r.handle(k)
		if err != nil {
			return err
		}
		return writeAnswer(k, answer)
	}
}

// authenticate finds out who calls, as far as the route asks for it.
func (a *API) authenticate(c *call, need auth) error {
	r := c.Request()
	token := accessToken(c)
	if need == public || need == optional && token == "" {
		c.SetRequest(r.WithContext(context.WithValue(r.Context(), store.Asker{}, network(c.RealIP()))))
		return nil
	}
	if token == "" {
		return fail(http.StatusUnauthorized, "M_MISSING_TOKEN", "an access token is needed")
	}
	// Until it is known who calls, it is read for the network.
	requester, err := a.Account.Authenticate(context.WithValue(r.Context(), store.Asker{}, stranger(c.RealIP())), token)
	if err != nil {
		return err
	}
	if need == admin && !requester.Admin {
		return fail(http.StatusForbidden, "M_FORBIDDEN", "this is for administrators of the server")
	}
	if requester.Unseen {
		a.Account.Seen(requester, c.RealIP(), c.Request().UserAgent())
	}
	c.Requester = requester
	c.SetRequest(r.WithContext(context.WithValue(r.Context(), store.Asker{}, string(requester.User))))
	return nil
}

// accessToken reads the token from the header, or from the query as old clients send it.
func accessToken(c *call) string {
	if header := c.Request().Header.Get("Authorization"); header != "" {
		scheme, token, _ := strings.Cut(header, " ")
		if strings.EqualFold(scheme, "Bearer") {
			return token
		}
		return ""
	}
	return c.query("access_token")
}

// writeAnswer writes what a handler returned, unless the handler has written its answer itself. A large one is charged, with
// what was returned and what goes out, until it is read.
func writeAnswer(c *call, answer any) error {
	w, code := c.Response(), http.StatusOK
	if w.Committed {
		return nil
	}
	if s, ok := answer.(status); ok {
		code, answer = s.code, s.body
	}
	var body []byte
	switch answer := answer.(type) {
	case nil:
		body = emptyObject
	case json.RawMessage:
		body = answer
	default:
		buffer := buffers.Get().(*bytes.Buffer)
		defer keep(buffer)
		buffer.Reset()
		encoder := json.NewEncoder(buffer)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(answer); err != nil {
			return fmt.Errorf("encode an answer: %w", err)
		}
		body = bytes.TrimSuffix(buffer.Bytes(), []byte("\n"))
	}
	if size := 2 * int64(len(body)); size > load.Free {
		if err := c.answering(size); err != nil {
			return err
		}
	}
	h := w.Header()
	if len(body) >= compressFrom {
		zipped := buffers.Get().(*bytes.Buffer)
		defer keep(zipped)
		body = theCompressors().compress(c.Request(), h, body, zipped)
	}
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(code)
	if c.Request().Method != http.MethodHead {
		_, _ = w.Write(body) // the client has gone: there is nobody to tell
	}
	if c.answer != nil && c.answer.Over() {
		panic(http.ErrAbortHandler) // what went out of it may not pass for the whole
	}
	return nil
}

// keep keeps a buffer for later answers, unless it has become large.
func keep(b *bytes.Buffer) {
	if b.Cap() <= maxKeptBuffer {
		buffers.Put(b)
	}
}

const maxKeptBuffer = 256 << 10

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}
