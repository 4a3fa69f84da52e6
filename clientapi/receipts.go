package clientapi

import (
	"net/http"

	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/id"
)

func (a *API) receiptRoutes() []route {
	return []route{
		{POST, "/v3/rooms/:roomId/receipt/:receiptType/:eventId", user, none, a.receipt},
		{POST, "/v3/rooms/:roomId/read_markers", user, none, a.readMarkers},
	}
}

func (a *API) receipt(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	eventID, err := c.eventID()
	if err != nil {
		return nil, err
	}
	var body struct {
		Thread *string `json:"thread_id"`
	}
	if err := c.decodeUpTo(maxSmallBody, &body); err != nil {
		return nil, err
	}
	m, err := markOf(c.path("receiptType"), eventID, body.Thread)
	if err != nil {
		return nil, err
	}
	return nil, a.Ephemeral.SetMarks(c.Request().Context(), roomID, c.Requester.User, m)
}

// markOf is the receipt that a client asks for. The thread is nil if it names none.
func markOf(typ string, event id.EventID, thread *string) (ephemeral.Mark, error) {
	m := ephemeral.Mark{Type: typ, Event: event}
	if thread == nil {
		return m, nil
	}
	if m.Thread = *thread; m.Thread == "" {
		return m, fail(http.StatusBadRequest, "M_INVALID_PARAM", "thread_id must not be empty")
	}
	return m, nil
}

func (a *API) readMarkers(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	var body struct {
		FullyRead id.EventID `json:"m.fully_read"`
		Read      id.EventID `json:"m.read"`
		Private   id.EventID `json:"m.read.private"`
	}
	if err := c.decodeUpTo(maxSmallBody, &body); err != nil {
		return nil, err
	}
	var marks []ephemeral.Mark
	for _, m := range []ephemeral.Mark{
		{Type: ephemeral.FullyRead, Event: body.FullyRead}, {Type: ephemeral.Read, Event: body.Read}, {Type: ephemeral.ReadPrivate, Event: body.Private},
	} {
		if m.Event != "" {
			marks = append(marks, m)
		}
	}
	return nil, a.Ephemeral.SetMarks(c.Request().Context(), roomID, c.Requester.User, marks...)
}
