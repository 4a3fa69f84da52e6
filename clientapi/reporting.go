package clientapi

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/timeline"
)

// reportRoutes are Client-Server API, "Reporting Content".
func (a *API) reportRoutes() []route {
	return []route{
		{POST, "/v3/rooms/:roomId/report", user, limitMessage, a.reportRoom},
		{POST, "/v3/rooms/:roomId/report/:eventId", user, limitMessage, a.reportEvent},
		{POST, "/v3/users/:userId/report", user, limitMessage, a.reportUser},
	}
}

const (
	maxReason  = 4096 // bytes
	maxReports = 500  // of one user; the oldest goes
)

// report keeps a report with the reason in the body.
func (a *API) report(c *call, r store.Report) (any, error) {
	var body struct {
		Reason string `json:"reason"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if len(body.Reason) > maxReason {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "the reason is too long")
	}
	r.Reporter, r.Reason, r.At = c.Requester.User, strings.ReplaceAll(body.Reason, "\x00", ""), time.Now()
	err := a.Store.Update(c.Request().Context(), func(tx *store.Tx) error { return tx.Reports.Put(r, maxReports) })
	if err != nil {
		return nil, err
	}
	a.Log.Info("a user has reported something", "reporter", r.Reporter, "room", r.Room, "event", r.Event, "user", r.User)
	return nil, nil
}

var errNothingToReport = fail(http.StatusNotFound, "M_NOT_FOUND", "there is no such thing here, or not for you")

// reportRoom takes reports of who has not been in the room, too: people see rooms in lists and invites.
func (a *API) reportRoom(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	_, known, err := a.Rooms.MembershipOf(c.Request().Context(), roomID, c.Requester.User)
	if err != nil {
		return nil, err
	}
	if known == nil {
		return nil, errNothingToReport
	}
	return a.report(c, store.Report{Room: roomID})
}

func (a *API) reportEvent(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	eventID, err := id.ParseEventID(c.path("eventId"))
	if err != nil {
		return nil, errNothingToReport
	}
	ctx := c.Request().Context()
	membership, _, err := a.Rooms.MembershipOf(ctx, roomID, c.Requester.User)
	if err != nil {
		return nil, err
	}
	if membership != "join" {
		return nil, errNothingToReport
	}
	raw, err := a.Timeline.Event(ctx, roomID, timeline.Reader{User: c.Requester.User, Device: c.Requester.Device}, eventID)
	if err != nil {
		return nil, err
	}
	var seen struct {
		Sender id.UserID `json:"sender"`
	}
	if err := json.Unmarshal(raw, &seen); err != nil {
		return nil, err
	}
	return a.report(c, store.Report{Room: roomID, Event: eventID, User: seen.Sender})
}

func (a *API) reportUser(c *call) (any, error) {
	target, err := c.userID()
	if err != nil {
		return nil, err
	}
	if target.Server() == a.Server {
		err := a.Store.View(c.Request().Context(), func(tx *store.Tx) error {
			_, known, err := tx.Users.Get(target)
			if err == nil && !known {
				err = errNothingToReport
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return a.report(c, store.Report{User: target})
}
