package federation

import (
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
)

func (a *API) deviceRoutes() []route {
	return []route{
		{GET, "/v1/user/devices/:userId", signed, none, a.userDevices},
		{POST, "/v1/user/keys/query", signed, small, a.inTurn(a.queryKeys)},
		{POST, "/v1/user/keys/claim", signed, small, a.inTurn(a.claimKeys)},
	}
}

func (a *API) userDevices(c *call) (any, error) {
	user, err := a.ownUser(c.path("userId"))
	if err != nil {
		return nil, err
	}
	return a.Keys.Devices(c.Request().Context(), user)
}

func (a *API) queryKeys(c *call) (any, error) {
	var body struct {
		Users map[id.UserID][]id.DeviceID `json:"device_keys"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if body.Users == nil {
		return nil, missing("device_keys")
	}
	for user := range body.Users {
		if user.Server() != a.Server {
			delete(body.Users, user)
		}
	}
	return a.Keys.QueryLocal(c.Request().Context(), body.Users)
}

func (a *API) claimKeys(c *call) (any, error) {
	var body struct {
		Wants keys.Wants `json:"one_time_keys"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if body.Wants == nil {
		return nil, missing("one_time_keys")
	}
	for user := range body.Wants {
		if user.Server() != a.Server {
			delete(body.Wants, user)
		}
	}
	claimed, err := a.Keys.ClaimLocal(c.Request().Context(), body.Wants)
	if claimed == nil {
		claimed = keys.Claimed{}
	}
	return map[string]any{"one_time_keys": claimed}, err
}
