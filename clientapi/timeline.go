package clientapi

import (
	"net/http"

	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

const (
	// maxGathers is how many answers that may be as large as a room are gathered for a user at a time, before they are charged.
	maxGathers    = 4
	gathersInLine = 20 // clients ask for several places of a room at once
)

// timelineRoutes read rooms' histories (Client-Server API, "Getting events for a room", module "Event Context").
func (a *API) timelineRoutes() []route {
	return []route{
		{GET, "/v3/rooms/:roomId/messages", user, none, gathers(&a.pages, a.messages)},
		{GET, "/v3/rooms/:roomId/event/:eventId", user, none, a.event},
		{GET, "/v3/rooms/:roomId/context/:eventId", user, none, gathers(&a.rooms, a.eventContext)},
		{GET, "/v3/rooms/:roomId/initialSync", user, none, gathers(&a.rooms, a.roomSnapshot)},
	}
}

// gathers is a handler whose answer may be as large as a room: it has a place before anything is read.
func gathers(p *places, handle func(*call) (any, error)) func(*call) (any, error) {
	return func(c *call) (any, error) {
		leave, err := p.await(c.Request().Context(), c.Requester.User, maxGathers)
		if err != nil {
			return nil, err
		}
		defer leave()
		return handle(c)
	}
}

// reader is who asks, as readers of rooms are named.
func (c *call) reader() timeline.Reader {
	return timeline.Reader{User: c.Requester.User, Device: c.Requester.Device}
}

// page reads what the endpoints that turn pages have in common: a filter, which may be missing, and a limit.
func (c *call) page(usual int) (*filter.RoomEvents, int, error) {
	f, err := filter.ParseRoomEvents([]byte(c.query("filter")))
	if err != nil {
		return nil, 0, err
	}
	limit, err := c.intQuery("limit", f.Count(usual, timeline.MaxLimit), timeline.MaxLimit)
	return f, limit, err
}

// direction reads "dir": whether from new to old.
func (c *call) direction(usual string) (backwards bool, err error) {
	dir := c.query("dir")
	if dir == "" {
		dir = usual
	}
	if dir != "b" && dir != "f" {
		return false, fail(http.StatusBadRequest, "M_INVALID_PARAM", "dir must be b or f")
	}
	return dir == "b", nil
}

func (a *API) messages(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	f, limit, err := c.page(timeline.DefaultLimit)
	if err != nil {
		return nil, err
	}
	backwards, err := c.direction("f")
	if err != nil {
		return nil, err
	}
	return a.Timeline.Messages(c.Request().Context(), roomID, c.reader(), timeline.Page{
		From: c.query("from"), To: c.query("to"), Backwards: backwards, Limit: limit, Filter: f,
	})
}

func (a *API) event(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	eventID, err := c.eventID()
	if err != nil {
		return nil, err
	}
	return a.Timeline.Event(c.Request().Context(), roomID, c.reader(), eventID)
}

func (a *API) eventContext(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	eventID, err := c.eventID()
	if err != nil {
		return nil, err
	}
	f, limit, err := c.page(timeline.DefaultLimit)
	if err != nil {
		return nil, err
	}
	return a.Timeline.Context(c.Request().Context(), roomID, c.reader(), eventID, limit, f)
}

// roomSnapshot is deprecated, but old clients still open rooms with it.
func (a *API) roomSnapshot(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	_, limit, err := c.page(2 * timeline.DefaultLimit)
	if err != nil {
		return nil, err
	}
	return a.Timeline.Snapshot(c.Request().Context(), roomID, c.reader(), limit)
}
