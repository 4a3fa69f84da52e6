package clientapi

import (
	"net/http"
	"time"
)

// adminRoutes are what an administrator needs that the specification has no endpoints for. Paths and members are
// those that the administration tools of other homeservers use.
func (a *API) adminRoutes() []route {
	return []route{
		{POST, "/_synapse/admin/v1/registration_tokens/new", admin, limitLogin, a.newRegistrationToken},
		{PUT, "/_synapse/admin/v1/users/:userId/admin", admin, limitLogin, a.setAdmin},
	}
}

// maxUses is the largest number of registrations that one token may be limited to.
const maxUses = 1 << 31

// newRegistrationToken makes a token for uses_allowed registrations (null or absent: any number) until expiry_time,
// in milliseconds since 1970 (null or absent: for ever). The server chooses it: it has to be hard to guess.
func (a *API) newRegistrationToken(c *call) (any, error) {
	var in struct {
		Token  *string `json:"token"`
		Uses   *int    `json:"uses_allowed"`
		Expiry *int64  `json:"expiry_time"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if in.Token != nil {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "the server chooses the token; leave it out")
	}
	uses, life := -1, time.Duration(0)
	if in.Uses != nil {
		if uses = *in.Uses; uses < 1 || uses > maxUses {
			return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "uses_allowed must be a number from 1")
		}
	}
	if in.Expiry != nil {
		if life = time.Until(time.UnixMilli(*in.Expiry)); life <= 0 {
			return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "expiry_time has passed")
		}
	}
	token, err := a.Account.NewRegistrationToken(c.Request().Context(), uses, life, false)
	if err != nil {
		return nil, err
	}
	a.Log.Info("a registration token has been made", "administrator", c.Requester.User)
	return map[string]any{"token": token, "uses_allowed": in.Uses, "pending": 0, "completed": 0, "expiry_time": in.Expiry}, nil
}

func (a *API) setAdmin(c *call) (any, error) {
	target, err := c.userID()
	if err != nil {
		return nil, err
	}
	var in struct {
		Admin *bool `json:"admin"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	switch {
	case in.Admin == nil:
		return nil, missing("admin")
	case target.Server() != a.Server:
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "only users of this server can be its administrators")
	case target == c.Requester.User && !*in.Admin:
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "another administrator has to do that, so that one is left")
	}
	if err := a.Account.SetAdmin(c.Request().Context(), target, *in.Admin); err != nil {
		return nil, err
	}
	a.Log.Info("administrators have changed", "administrator", c.Requester.User, "user", target, "admin", *in.Admin)
	return nil, nil
}
