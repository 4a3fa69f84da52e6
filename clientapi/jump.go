package clientapi

import (
	"net/http"
	"strconv"
)

// jumpRoutes find events by time.
func (a *API) jumpRoutes() []route {
	return []route{
		{GET, "/v1/rooms/:roomId/timestamp_to_event", user, limitSearch, a.timestampToEvent},
	}
}

func (a *API) timestampToEvent(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	if c.query("ts") == "" {
		return nil, missing("ts")
	}
	ts, err := strconv.ParseInt(c.query("ts"), 10, 64)
	if err != nil {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "ts must be a number of milliseconds")
	}
	backwards, err := c.direction("")
	if err != nil {
		return nil, err
	}
	leave, err := a.searches.await(c.Request().Context(), c.Requester.User, 1)
	if err != nil {
		return nil, err
	}
	defer leave()
	eventID, at, err := a.Timeline.EventAt(c.Request().Context(), roomID, c.reader(), ts, !backwards)
	if err != nil {
		return nil, err
	}
	return map[string]any{"event_id": eventID, "origin_server_ts": at}, nil
}
