package clientapi

import (
	"net/http"

	"github.com/securecomm/securecomm/homeserver/directory"
)

// spaceRoutes are Client-Server API, "Spaces".
func (a *API) spaceRoutes() []route {
	return []route{
		{GET, "/v1/rooms/:roomId/hierarchy", user, limitCostly, a.hierarchy},
	}
}

func (a *API) hierarchy(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	q := directory.HierarchyQuery{From: c.query("from")}
	if c.query("limit") != "" {
		if q.Limit, err = c.intQuery("limit", 0, 1<<20); err != nil {
			return nil, err
		}
		if q.Limit == 0 {
			return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "limit must be a number from 1")
		}
	}
	if c.query("max_depth") != "" {
		depth, err := c.intQuery("max_depth", 0, 1<<20)
		if err != nil {
			return nil, err
		}
		q.MaxDepth = &depth
	}
	if c.query("suggested_only") != "" {
		suggested, err := c.boolQuery("suggested_only", false)
		if err != nil {
			return nil, err
		}
		q.SuggestedOnly = &suggested
	}
	leave, err := a.spaces.await(c.Request().Context(), c.Requester.User, maxGathers)
	if err != nil {
		return nil, err
	}
	defer leave()
	return a.Directory.Hierarchy(c.Request().Context(), c.Requester.User, roomID, q)
}
