package federation

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
)

func (a *API) eventRoutes() []route {
	return []route{
		{GET, "/v1/event_auth/:roomId/:eventId", signed, none, a.inTurn(a.eventAuth)},
		{GET, "/v1/backfill/:roomId", signed, none, a.inTurn(a.backfill)},
		{POST, "/v1/get_missing_events/:roomId", signed, small, a.inTurn(a.missingEvents)},
		{GET, "/v1/state/:roomId", signed, none, a.inTurn(a.state)},
		{GET, "/v1/state_ids/:roomId", signed, none, a.inTurn(a.stateIDs)},
		{GET, "/v1/event/:eventId", signed, none, a.event},
		{GET, "/v1/timestamp_to_event/:roomId", signed, none, a.inTurn(a.timestampToEvent)},
	}
}

// pdus is the answer of endpoints that answer in the form of a transaction.
func (a *API) pdus(events []*event.Event) any {
	return map[string]any{
		"origin": a.Server, "origin_server_ts": time.Now().UnixMilli(),
		"pdus": list(events, func(e *event.Event) []byte { return e.JSON }),
	}
}

func (a *API) eventAuth(c *call) (any, error) {
	room, eventID, err := c.roomAndEvent()
	if err != nil {
		return nil, err
	}
	chain, err := a.Rooms.AuthChain(c.Request().Context(), c.Origin, room, eventID)
	return &large{events: []eventList{{"auth_chain", chain}}}, err
}

func (a *API) backfill(c *call) (any, error) {
	room, err := c.roomID()
	if err != nil {
		return nil, err
	}
	if err := c.needs("v"); err != nil {
		return nil, err
	}
	limit, err := c.intQuery("limit", 10)
	if err != nil {
		return nil, err
	}
	var from []id.EventID
	for _, v := range c.queries()["v"] {
		from = append(from, id.EventID(v))
	}
	events, err := a.Rooms.BackfillFor(c.Request().Context(), c.Origin, room, from, int(min(limit, 1000)))
	return a.pdus(events), err
}

func (a *API) missingEvents(c *call) (any, error) {
	room, err := c.roomID()
	if err != nil {
		return nil, err
	}
	body := struct {
		Earliest []id.EventID `json:"earliest_events"`
		Latest   []id.EventID `json:"latest_events"`
		Limit    int          `json:"limit"`
		MinDepth int64        `json:"min_depth"`
	}{Limit: 10}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	events, err := a.Rooms.MissingFor(c.Request().Context(), c.Origin, room, body.Earliest, body.Latest, max(0, body.Limit), body.MinDepth)
	return map[string]any{"events": list(events, func(e *event.Event) []byte { return e.JSON })}, err
}

// stateAt finds the state that a request asks for.
func (a *API) stateAt(c *call) (state, auth []*store.Event, err error) {
	room, err := c.roomID()
	if err != nil {
		return nil, nil, err
	}
	if err := c.needs("event_id"); err != nil {
		return nil, nil, err
	}
	at, err := id.ParseEventID(c.query("event_id"))
	if err != nil {
		return nil, nil, err
	}
	return a.Rooms.StateAt(c.Request().Context(), c.Origin, room, at)
}

func (a *API) state(c *call) (any, error) {
	state, auth, err := a.stateAt(c)
	return &large{events: []eventList{{"pdus", state}, {"auth_chain", auth}}}, err
}

func (a *API) stateIDs(c *call) (any, error) {
	state, auth, err := a.stateAt(c)
	return map[string]any{"pdu_ids": names(state), "auth_chain_ids": names(auth)}, err
}

func names(events []*store.Event) []id.EventID {
	out := make([]id.EventID, len(events))
	for i, e := range events {
		out[i] = e.ID
	}
	return out
}

func (a *API) event(c *call) (any, error) {
	eventID, err := c.eventID()
	if err != nil {
		return nil, err
	}
	e, err := a.Rooms.EventFor(c.Request().Context(), c.Origin, eventID)
	if errors.Is(err, room.ErrForbidden) || errors.Is(err, room.ErrNotFound) || errors.Is(err, room.ErrEventNotFound) {
		// Who may not see an event is not told either whether there is one.
		return nil, fail(http.StatusNotFound, "M_NOT_FOUND", "there is no such event, or it is not for you")
	}
	if err != nil {
		return nil, err
	}
	return a.pdus([]*event.Event{e}), nil
}

func (a *API) timestampToEvent(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	if err := c.needs("ts", "dir"); err != nil {
		return nil, err
	}
	ts, err := c.intQuery("ts", 0)
	if err != nil {
		return nil, err
	}
	dir := c.query("dir")
	if dir != "f" && dir != "b" {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", `dir is "f" or "b"`)
	}
	ctx := c.Request().Context()
	if err := a.Rooms.CheckServed(ctx, c.Origin, roomID); err != nil {
		return nil, err
	}
	if a.NearestEvent == nil {
		return nil, errUnrecognized
	}
	found, at, err := a.NearestEvent(ctx, roomID, ts, dir, func(tx *store.Tx, r *store.Room) func(*store.Event) (bool, error) {
		return room.Shown(tx, r, c.Origin)
	})
	return map[string]any{"event_id": found, "origin_server_ts": at}, err
}

// object is a JSON object of which only some members are looked at.
type object = map[string]json.RawMessage
