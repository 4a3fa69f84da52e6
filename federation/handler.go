package federation

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
)

// Observe is told of every answered request: by route, never by path, since paths hold names.
type Observe func(method, route string, status int, took time.Duration)

// Handler is the API as a handler of its own. Call it once.
func (a *API) Handler() http.Handler {
	e := echo.New()
	e.HTTPErrorHandler = a.AnswerError
	e.Use(a.observe)
	a.Register(e)
	return e
}

// requestID is the header under which a request's answer names it, if whoever serves the API has given it a name.
const requestID = "X-Request-Id"

func (a *API) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		began := time.Now()
		if err := next(c); err != nil {
			c.Error(err)
		}
		took := time.Since(began)
		if a.Observe != nil {
			a.Observe(c.Request().Method, c.Path(), c.Response().Status, took)
		}
		if a.Log.Enabled(c.Request().Context(), slog.LevelDebug) {
			a.Log.Debug("answered a server", "request", c.Response().Header().Get(requestID), "method", c.Request().Method, "route", c.Path(),
				"status", c.Response().Status, "took", took)
		}
		return nil
	}
}
