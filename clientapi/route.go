package clientapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"

	"github.com/labstack/echo/v4"
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

// serve is all that happens to a request around its handler.
func (a *API) serve(r route) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				err = fmt.Errorf("panic in %s %s: %v\n%s", r.method, r.path, p, debug.Stack())
			}
		}()
		k := &call{Context: c}
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
		return k.answer(answer)
	}
}

func (c *call) answer(answer any) error {
	if c.Response().Committed {
		return nil
	}
	code := http.StatusOK
	if s, ok := answer.(status); ok {
		code, answer = s.code, s.body
	}
	if answer == nil {
		answer = emptyObject
	}
	if raw, ok := answer.(json.RawMessage); ok {
		return writeJSON(c.Context, code, raw)
	}
	buffer := buffers.Get().(*bytes.Buffer)
	defer func() {
		if buffer.Cap() <= maxKeptBuffer {
			buffers.Put(buffer)
		}
	}()
	buffer.Reset()
	encoder := json.NewEncoder(buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(answer); err != nil {
		return fmt.Errorf("encode an answer: %w", err)
	}
	return writeJSON(c.Context, code, bytes.TrimSuffix(buffer.Bytes(), []byte("\n")))
}

const maxKeptBuffer = 256 << 10

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func writeJSON(c echo.Context, code int, body []byte) error {
	w := c.Response()
	h := w.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(code)
	if c.Request().Method == http.MethodHead {
		return nil
	}
	_, _ = w.Write(body) // the client has gone: there is nobody to tell
	return nil
}
