package clientapi

import (
	"net/http"

	"github.com/securecomm/securecomm/homeserver/timeline"
)

// relationRoutes are Client-Server API, "Relationships API".
func (a *API) relationRoutes() []route {
	return []route{
		{GET, "/v1/rooms/:roomId/relations/:eventId", user, none, gathers(&a.pages, a.relations)},
		{GET, "/v1/rooms/:roomId/relations/:eventId/:relType", user, none, gathers(&a.pages, a.relations)},
		{GET, "/v1/rooms/:roomId/relations/:eventId/:relType/:eventType", user, none, gathers(&a.pages, a.relations)},
	}
}

func (a *API) relations(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	parent, err := c.eventID()
	if err != nil {
		return nil, err
	}
	backwards, err := c.direction("b")
	if err != nil {
		return nil, err
	}
	recurse, err := c.boolQuery("recurse", false)
	if err != nil {
		return nil, err
	}
	limit, err := c.positive("limit", timeline.DefaultLimit)
	if err != nil {
		return nil, err
	}
	return a.Timeline.Relations(c.Request().Context(), roomID, c.reader(), timeline.Relations{
		Parent: parent, RelType: c.path("relType"), Type: c.path("eventType"), From: c.query("from"), To: c.query("to"),
		Forwards: !backwards, Recurse: recurse, Limit: limit,
	})
}

// positive is intQuery for a number of events that must not be 0.
func (c *call) positive(name string, usual int) (int, error) {
	n, err := c.intQuery(name, usual, timeline.MaxLimit)
	if err == nil && n == 0 {
		err = fail(http.StatusBadRequest, "M_INVALID_PARAM", name+" must be greater than 0")
	}
	return n, err
}
