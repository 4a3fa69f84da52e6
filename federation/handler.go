package federation

import (
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
	if a.Observe != nil {
		e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
			return func(c echo.Context) error {
				began := time.Now()
				if err := next(c); err != nil {
					c.Error(err)
				}
				a.Observe(c.Request().Method, c.Path(), c.Response().Status, time.Since(began))
				return nil
			}
		})
	}
	a.Register(e)
	return e
}
