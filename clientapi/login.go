package clientapi

import (
	"encoding/json"
	"net/http"

	"github.com/securecomm/securecomm/homeserver/account"
)

func (a *API) loginRoutes() []route {
	return []route{
		{GET, "/v3/login", public, none, a.loginFlows},
		{POST, "/v3/login", public, limitLogin, a.login},
		{POST, "/v1/login/get_token", user, limitConfirm, a.loginToken},
		{POST, "/v3/refresh", public, limitLogin, a.refresh},
		{POST, "/v3/logout", user, none, a.logout},
		{POST, "/v3/logout/all", user, none, a.logoutAll},
	}
}

var loginFlows = json.RawMessage(`{"flows":[{"type":"m.login.password"},{"type":"m.login.token","get_login_token":true}]}`)

func (a *API) loginFlows(*call) (any, error) { return loginFlows, nil }

func (a *API) login(c *call) (any, error) {
	var in struct {
		account.Auth
		deviceRequest
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	var l account.Login
	var err error
	switch in.Type {
	case "m.login.password":
		l, err = a.loginWithPassword(c, &in.Auth, account.DeviceRequest(in.deviceRequest))
	case "m.login.token":
		l, err = a.Account.LoginWithToken(c.Request().Context(), in.Token, account.DeviceRequest(in.deviceRequest))
	case "":
		return nil, missing("type")
	default:
		return nil, fail(http.StatusBadRequest, "M_UNKNOWN", "this login type is not offered")
	}
	if err != nil {
		return nil, err
	}
	answer := a.loginAnswer(l)
	if a.Discovery.BaseURL != "" {
		answer.WellKnown = map[string]any{"m.homeserver": map[string]string{"base_url": a.Discovery.BaseURL}}
	}
	return answer, nil
}

func (a *API) loginWithPassword(c *call, in *account.Auth, d account.DeviceRequest) (account.Login, error) {
	switch t := in.Identifier.Type; {
	case t != "" && t != "m.id.user":
		return account.Login{}, fail(http.StatusBadRequest, "M_UNKNOWN", "users can log in by their user ID only")
	case t == "" && in.Identifier.User != "":
		return account.Login{}, missing("identifier.type")
	case in.Name() == "":
		return account.Login{}, missing("identifier")
	case in.Password == "":
		return account.Login{}, missing("password")
	}
	u, err := a.Account.LocalUser(in.Name())
	if err != nil {
		return account.Login{}, err
	}
	if err := a.limiter.checkLogin(c, u); err != nil {
		return account.Login{}, err
	}
	return a.Account.LoginWithPassword(c.Request().Context(), u, in.Password, d)
}

func (a *API) loginToken(c *call) (any, error) {
	const operation = "make a login token"
	auth, err := a.decodeConfirmed(c, operation, &struct{}{})
	if err != nil {
		return nil, err
	}
	if err := a.Account.Confirm(c.Request().Context(), c.Requester, operation, auth); err != nil {
		return nil, err
	}
	token, err := a.Account.LoginToken(c.Request().Context(), c.Requester.User)
	if err != nil {
		return nil, err
	}
	return map[string]any{"login_token": token, "expires_in_ms": account.LoginTokenLifetime.Milliseconds()}, nil
}

func (a *API) refresh(c *call) (any, error) {
	var in struct {
		RefreshToken string `json:"refresh_token"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if in.RefreshToken == "" {
		return nil, missing("refresh_token")
	}
	l, err := a.Account.Refresh(c.Request().Context(), in.RefreshToken)
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"access_token": l.AccessToken, "refresh_token": l.RefreshToken}
	if l.ExpiresIn > 0 {
		answer["expires_in_ms"] = l.ExpiresIn.Milliseconds()
	}
	return answer, nil
}

func (a *API) logout(c *call) (any, error) {
	return nil, a.Account.Logout(c.Request().Context(), c.Requester)
}

func (a *API) logoutAll(c *call) (any, error) {
	return nil, a.Account.LogoutAll(c.Request().Context(), c.Requester.User)
}
