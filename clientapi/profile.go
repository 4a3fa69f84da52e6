package clientapi

import (
	"encoding/json"

	"github.com/securecomm/securecomm/homeserver/id"
)

func (a *API) profileRoutes() []route {
	return []route{
		{GET, "/v3/profile/:userId", public, limitLookup, a.profile},
		{GET, "/v3/profile/:userId/:keyName", public, limitLookup, a.profile},
		{PUT, "/v3/profile/:userId/:keyName", user, limitMessage, a.setProfileField},
		{DELETE, "/v3/profile/:userId/:keyName", user, limitMessage, a.deleteProfileField},
		{POST, "/v3/user_directory/search", user, limitMessage, a.searchUsers},
	}
}

// profile answers for all fields and for one.
func (a *API) profile(c *call) (any, error) {
	u, err := c.userID()
	if err != nil {
		return nil, err
	}
	return a.Account.Profile(c.Request().Context(), u, c.path("keyName"))
}

// maxProfileBody leaves room for a value at the limit and its name.
const maxProfileBody = 66 << 10

func (a *API) setProfileField(c *call) (any, error) {
	u, err := c.ownUserID()
	if err != nil {
		return nil, err
	}
	field := c.path("keyName")
	var in map[string]json.RawMessage
	if err := c.decodeUpTo(maxProfileBody, &in); err != nil {
		return nil, err
	}
	value, ok := in[field]
	if !ok {
		return nil, missing(field)
	}
	return nil, a.Account.SetProfileField(c.Request().Context(), u, field, value)
}

func (a *API) deleteProfileField(c *call) (any, error) {
	u, err := c.ownUserID()
	if err != nil {
		return nil, err
	}
	return nil, a.Account.DeleteProfileField(c.Request().Context(), u, c.path("keyName"))
}

const (
	usualFoundUsers = 10
	maxFoundUsers   = 100
)

func (a *API) searchUsers(c *call) (any, error) {
	var in struct {
		Term  string `json:"search_term"`
		Limit *int   `json:"limit"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	limit := usualFoundUsers
	if in.Limit != nil {
		limit = max(0, min(*in.Limit, maxFoundUsers))
	}
	leave, err := a.searches.await(c.Request().Context(), c.Requester.User, 1)
	if err != nil {
		return nil, err
	}
	defer leave()
	found, limited, err := a.Account.Search(c.Request().Context(), c.Requester.User, in.Term, limit)
	if err != nil {
		return nil, err
	}
	type result struct {
		User        id.UserID `json:"user_id"`
		DisplayName string    `json:"display_name,omitempty"`
		AvatarURL   string    `json:"avatar_url,omitempty"`
	}
	results := make([]result, len(found))
	for i, f := range found {
		results[i] = result{f.User, f.DisplayName, f.AvatarURL}
	}
	return map[string]any{"results": results, "limited": limited}, nil
}
