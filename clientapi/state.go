package clientapi

import (
	"net/http"

	"github.com/securecomm/securecomm/homeserver/event"
)

// stateRoutes read rooms' states; rooms.go has those that set them.
func (a *API) stateRoutes() []route {
	return []route{
		{GET, "/v3/rooms/:roomId/state", user, none, gathers(&a.rooms, a.state)},
		{GET, "/v3/rooms/:roomId/state/:eventType", user, none, a.stateEvent},
		{GET, "/v3/rooms/:roomId/state/:eventType/", user, none, a.stateEvent},
		{GET, "/v3/rooms/:roomId/state/:eventType/:stateKey", user, none, a.stateEvent},
	}
}

func (a *API) state(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	return a.inPieces(c, "[", "]", func(w *pieces) error {
		return a.Timeline.State(c.Request().Context(), roomID, c.reader(), w.items)
	})
}

func (a *API) stateEvent(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	format := c.query("format")
	if format != "" && format != "content" && format != "event" {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "format must be content or event")
	}
	t := event.StateKeyTuple{Type: c.path("eventType"), StateKey: c.path("stateKey")}
	return a.Timeline.StateEvent(c.Request().Context(), roomID, c.reader(), t, format == "event")
}
