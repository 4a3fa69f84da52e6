package clientapi

import (
	"errors"
	"net/http"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/room"
)

// upgradeRoutes are Client-Server API, "Room Upgrades".
func (a *API) upgradeRoutes() []route {
	return []route{
		{POST, "/v3/rooms/:roomId/upgrade", user, limitJoin, a.upgradeRoom},
	}
}

func (a *API) upgradeRoom(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	var body struct {
		Version            id.RoomVersion `json:"new_version"`
		AdditionalCreators []id.UserID    `json:"additional_creators"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if body.Version == "" {
		return nil, missing("new_version")
	}
	ctx := c.Request().Context()
	u := room.Upgrade{Room: roomID, User: c.Requester.User, Version: body.Version, AdditionalCreators: body.AdditionalCreators}
	if u.Profile, err = a.profileOf(ctx, u.User); err != nil {
		return nil, err
	}
	if err := a.limiter.check(limitCopy, c); err != nil {
		return nil, err
	}
	next, wrote, err := a.Rooms.Upgrade(ctx, u)
	if errors.Is(err, event.ErrMalformed) || errors.Is(err, event.ErrTooLarge) {
		// The state of the old room does not fit the rules of the new version.
		return nil, fail(http.StatusBadRequest, "M_INVALID_ROOM_STATE", err.Error())
	}
	if err != nil {
		return nil, err
	}
	a.limiter.owe(limitCopy, c, wrote.Events+load.MoreCalls(wrote.Bytes))
	return map[string]any{"replacement_room": next}, nil
}
