package clientapi

import (
	"net/http"

	"github.com/securecomm/securecomm/homeserver/timeline"
)

// threadRoutes are Client-Server API, module "Threading".
func (a *API) threadRoutes() []route {
	return []route{
		{GET, "/v1/rooms/:roomId/threads", user, none, gathers(&a.pages, a.threads)},
	}
}

func (a *API) threads(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	include := c.query("include")
	if include != "" && include != "all" && include != "participated" {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "include must be all or participated")
	}
	limit, err := c.positive("limit", timeline.DefaultLimit)
	if err != nil {
		return nil, err
	}
	return a.Timeline.Threads(c.Request().Context(), roomID, c.reader(), timeline.ThreadQuery{
		From: c.query("from"), Participated: include == "participated", Limit: limit,
	})
}
