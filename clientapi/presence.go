package clientapi

import (
	"net/http"

	"github.com/securecomm/securecomm/homeserver/store"
)

func (a *API) presenceRoutes() []route {
	return []route{
		{GET, "/v3/presence/:userId/status", user, none, a.presence},
		{PUT, "/v3/presence/:userId/status", user, none, a.setPresence},
	}
}

func (a *API) presence(c *call) (any, error) {
	u, err := c.userID()
	if err != nil {
		return nil, err
	}
	if u != c.Requester.User {
		shared := false
		err := a.Store.View(c.Request().Context(), func(tx *store.Tx) (err error) {
			shared, err = tx.Memberships.ShareRoom(c.Requester.User, u)
			return err
		})
		if err != nil {
			return nil, err
		}
		if !shared {
			return nil, fail(http.StatusForbidden, "M_FORBIDDEN", "you share no room with that user")
		}
	}
	status, _ := a.Ephemeral.Presence(u)
	return status.Content(), nil
}

func (a *API) setPresence(c *call) (any, error) {
	u, err := c.ownUserID()
	if err != nil {
		return nil, err
	}
	var body struct {
		State   string `json:"presence"`
		Message string `json:"status_msg"`
	}
	if err := c.decodeUpTo(maxSmallBody, &body); err != nil {
		return nil, err
	}
	if body.State == "" {
		return nil, missing("presence")
	}
	return nil, a.Ephemeral.SetPresence(u, body.State, body.Message)
}
