package clientapi

import (
	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/pushrule"
)

func (a *API) accountDataRoutes() []route {
	return []route{
		{GET, "/v3/user/:userId/account_data/:type", user, none, a.accountData},
		{PUT, "/v3/user/:userId/account_data/:type", user, limitMessage, a.setAccountData},
		{GET, "/v3/user/:userId/rooms/:roomId/account_data/:type", user, none, a.accountData},
		{PUT, "/v3/user/:userId/rooms/:roomId/account_data/:type", user, limitMessage, a.setAccountData},
		{GET, "/v3/user/:userId/rooms/:roomId/tags", user, none, a.tags},
		{PUT, "/v3/user/:userId/rooms/:roomId/tags/:tag", user, limitMessage, a.setTag},
		{DELETE, "/v3/user/:userId/rooms/:roomId/tags/:tag", user, limitMessage, a.deleteTag},
		{POST, "/v3/user/:userId/filter", user, limitMessage, a.putFilter},
		{GET, "/v3/user/:userId/filter/:filterId", user, none, a.filter},
	}
}

// owner is the user in the path, who has to be the one who asks, and the room there if there is one.
func (c *call) owner() (id.UserID, id.RoomID, error) {
	u, err := c.ownUserID()
	if err != nil || c.Param("roomId") == "" {
		return u, "", err
	}
	room, err := c.roomID()
	return u, room, err
}

func (a *API) accountData(c *call) (any, error) {
	u, room, err := c.owner()
	if err != nil {
		return nil, err
	}
	if room == "" && c.path("type") == pushrule.AccountDataType {
		// Who never changed the rules has none stored, but the predefined ones apply.
		set, err := a.Push.Ruleset(c.Request().Context(), u)
		if err != nil {
			return nil, err
		}
		return map[string]any{"global": set}, nil
	}
	content, err := a.Account.AccountData(c.Request().Context(), u, room, c.path("type"))
	if err != nil {
		return nil, err
	}
	return content, nil
}

func (a *API) setAccountData(c *call) (any, error) {
	u, room, err := c.owner()
	if err != nil {
		return nil, err
	}
	content, err := c.object(account.MaxAccountData)
	if err != nil {
		return nil, err
	}
	return nil, a.Account.SetAccountData(c.Request().Context(), u, room, c.path("type"), content)
}

func (a *API) tags(c *call) (any, error) {
	u, room, err := c.owner()
	if err != nil {
		return nil, err
	}
	tags, err := a.Account.Tags(c.Request().Context(), u, room)
	if err != nil {
		return nil, err
	}
	return map[string]any{"tags": tags}, nil
}

const maxTag = 4 << 10

func (a *API) setTag(c *call) (any, error) {
	u, room, err := c.owner()
	if err != nil {
		return nil, err
	}
	content, err := c.object(maxTag)
	if err != nil {
		return nil, err
	}
	return nil, a.Account.SetTag(c.Request().Context(), u, room, c.path("tag"), content)
}

func (a *API) deleteTag(c *call) (any, error) {
	u, room, err := c.owner()
	if err != nil {
		return nil, err
	}
	return nil, a.Account.SetTag(c.Request().Context(), u, room, c.path("tag"), nil)
}

func (a *API) putFilter(c *call) (any, error) {
	u, err := c.ownUserID()
	if err != nil {
		return nil, err
	}
	content, err := c.object(maxBody)
	if err != nil {
		return nil, err
	}
	filterID, err := a.Account.PutFilter(c.Request().Context(), u, content)
	if err != nil {
		return nil, err
	}
	return map[string]string{"filter_id": filterID}, nil
}

func (a *API) filter(c *call) (any, error) {
	u, err := c.ownUserID()
	if err != nil {
		return nil, err
	}
	content, err := a.Account.FilterJSON(c.Request().Context(), u, c.path("filterId"))
	if err != nil {
		return nil, err
	}
	return content, nil
}
