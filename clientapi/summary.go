package clientapi

import "github.com/securecomm/securecomm/homeserver/directory"

// summaryRoutes are Client-Server API, "Room Previews", as far as they are not messages.
func (a *API) summaryRoutes() []route {
	return []route{
		{GET, "/v1/room_summary/:roomIdOrAlias", optional, limitJoin, a.roomSummary},
	}
}

func (a *API) roomSummary(c *call) (any, error) { return a.previewRoom(c) }

func (a *API) previewRoom(c *call) (*directory.Preview, error) {
	roomID, via, err := a.roomInPath(c, nil)
	if err != nil {
		return nil, err
	}
	return a.Directory.Preview(c.Request().Context(), c.Requester.User, roomID, via)
}
