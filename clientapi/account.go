package clientapi

import (
	"net/http"

	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/id"
)

func (a *API) accountRoutes() []route {
	return []route{
		{GET, "/v3/account/whoami", user, none, a.whoami},
		{POST, "/v3/account/password", user, limitConfirm, a.changePassword},
		{POST, "/v3/account/deactivate", user, limitConfirm, a.deactivate},
		{GET, "/v3/account/3pid", user, none, a.thirdPartyIDs},
		{POST, "/v3/account/3pid", user, none, a.noThirdParty},
		{POST, "/v3/account/3pid/add", user, none, a.noThirdParty},
		{POST, "/v3/account/3pid/bind", user, none, a.noThirdParty},
		{POST, "/v3/account/3pid/delete", user, none, a.unknownThirdParty},
		{POST, "/v3/account/3pid/unbind", user, none, a.unknownThirdParty},
		{POST, "/v3/account/3pid/email/requestToken", public, limitLogin, a.noThirdParty},
		{POST, "/v3/account/3pid/msisdn/requestToken", public, limitLogin, a.noThirdParty},
		{POST, "/v3/account/password/email/requestToken", public, limitLogin, a.unknownThirdParty},
		{POST, "/v3/account/password/msisdn/requestToken", public, limitLogin, a.unknownThirdParty},
		{GET, "/v3/admin/whois/:userId", user, none, a.whois},
		{POST, "/v3/user/:userId/openid/request_token", user, limitCostly, a.openIDToken},
	}
}

func (a *API) whoami(c *call) (any, error) {
	return map[string]any{"user_id": c.Requester.User, "device_id": c.Requester.Device, "is_guest": false}, nil
}

func (a *API) changePassword(c *call) (any, error) {
	var in struct {
		Password string `json:"new_password"`
		Logout   *bool  `json:"logout_devices"`
	}
	const operation = "change the password"
	auth, err := a.decodeConfirmed(c, operation, &in)
	if err != nil {
		return nil, err
	}
	if in.Password == "" {
		return nil, missing("new_password")
	}
	if err := a.Account.Confirm(c.Request().Context(), c.Requester, operation, auth); err != nil {
		return nil, err
	}
	return nil, a.Account.ChangePassword(c.Request().Context(), c.Requester, in.Password, in.Logout == nil || *in.Logout)
}

func (a *API) deactivate(c *call) (any, error) {
	var in struct {
		Erase bool `json:"erase"`
	}
	const operation = "deactivate the account"
	auth, err := a.decodeConfirmed(c, operation, &in)
	if err != nil {
		return nil, err
	}
	if err := a.Account.Confirm(c.Request().Context(), c.Requester, operation, auth); err != nil {
		return nil, err
	}
	if err := a.Account.Deactivate(c.Request().Context(), c.Requester.User, in.Erase); err != nil {
		return nil, err
	}
	return map[string]string{"id_server_unbind_result": "success"}, nil // nothing was bound
}

// E-mail addresses and telephone numbers are not known on this server.

func (a *API) thirdPartyIDs(*call) (any, error) {
	return map[string]any{"threepids": []any{}}, nil
}

func (a *API) noThirdParty(*call) (any, error) {
	return nil, fail(http.StatusForbidden, "M_THREEPID_DENIED", "this server takes no e-mail addresses or telephone numbers")
}

func (a *API) unknownThirdParty(*call) (any, error) {
	return nil, fail(http.StatusBadRequest, "M_THREEPID_NOT_FOUND", "this server knows no e-mail addresses or telephone numbers")
}

func (a *API) whois(c *call) (any, error) {
	target, err := c.userID()
	if err != nil {
		return nil, err
	}
	if target != c.Requester.User && !c.Requester.Admin {
		return nil, fail(http.StatusForbidden, "M_FORBIDDEN", "this is for the user and for administrators of the server")
	}
	devices, err := a.Account.Devices(c.Request().Context(), target)
	if err != nil {
		return nil, err
	}
	out := map[id.DeviceID]any{}
	for _, d := range devices {
		connections := []map[string]any{}
		if d.SeenAt > 0 {
			connections = append(connections, map[string]any{"ip": d.SeenAddress, "last_seen": d.SeenAt, "user_agent": d.SeenAgent})
		}
		out[d.ID] = map[string]any{"sessions": []any{map[string]any{"connections": connections}}}
	}
	return map[string]any{"user_id": target, "devices": out}, nil
}

func (a *API) openIDToken(c *call) (any, error) {
	u, err := c.ownUserID()
	if err != nil {
		return nil, err
	}
	token, err := a.Account.OpenIDToken(c.Request().Context(), u)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"access_token": token, "token_type": "Bearer", "matrix_server_name": a.Server,
		"expires_in": int64(account.OpenIDTokenLifetime.Seconds()),
	}, nil
}
