package clientapi

import (
	"net/http"

	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/id"
)

func (a *API) registrationRoutes() []route {
	return []route{
		{POST, "/v3/register", public, limitLookup, a.register},
		{GET, "/v3/register/available", public, limitLogin, a.usernameAvailable},
		{GET, "/v1/register/m.login.registration_token/validity", public, limitLogin, a.registrationTokenValidity},
		{POST, "/v3/register/email/requestToken", public, limitLogin, a.noThirdParty},
		{POST, "/v3/register/msisdn/requestToken", public, limitLogin, a.noThirdParty},
		{GET, "/_synapse/admin/v1/register", public, limitLookup, a.sharedNonce},
		{POST, "/_synapse/admin/v1/register", public, limitRegistration, a.registerShared},
	}
}

// deviceRequest is how clients say which device they want to be.
type deviceRequest struct {
	ID      id.DeviceID `json:"device_id"`
	Name    string      `json:"initial_device_display_name"`
	Refresh bool        `json:"refresh_token"`
}

// loginAnswer is a new session as clients are told of it.
type loginAnswer struct {
	User         id.UserID     `json:"user_id"`
	HomeServer   id.ServerName `json:"home_server"`
	AccessToken  string        `json:"access_token,omitempty"`
	Device       id.DeviceID   `json:"device_id,omitempty"`
	RefreshToken string        `json:"refresh_token,omitempty"`
	ExpiresIn    int64         `json:"expires_in_ms,omitempty"`
	WellKnown    any           `json:"well_known,omitempty"`
}

func (a *API) loginAnswer(l account.Login) loginAnswer {
	return loginAnswer{
		User: l.User, HomeServer: a.Server, AccessToken: l.AccessToken, Device: l.Device,
		RefreshToken: l.RefreshToken, ExpiresIn: l.ExpiresIn.Milliseconds(),
	}
}

func (a *API) register(c *call) (any, error) {
	var in struct {
		Username     string `json:"username"`
		Password     string `json:"password"`
		InhibitLogin bool   `json:"inhibit_login"`
		deviceRequest
	}
	auth, err := a.decodeConfirmed(c, account.OperationRegister, &in)
	if err != nil {
		return nil, err
	}
	switch c.query("kind") {
	case "", "user":
	case "guest":
		return nil, fail(http.StatusForbidden, "M_FORBIDDEN", "there are no guest accounts on this server")
	default:
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "kind must be user or guest")
	}
	if auth.Type != "" { // else it only asks what is needed
		if in.Password == "" {
			return nil, missing("password")
		}
		if err := a.limiter.check(limitRegistration, c); err != nil {
			return nil, err
		}
	}
	l, err := a.Account.Register(c.Request().Context(), account.Account{
		Username: in.Username, Password: in.Password, NoLogin: in.InhibitLogin, Device: account.DeviceRequest(in.deviceRequest),
	}, auth)
	if err != nil {
		return nil, err
	}
	return a.loginAnswer(l), nil
}

func (a *API) usernameAvailable(c *call) (any, error) {
	name := c.query("username")
	if name == "" {
		return nil, missing("username")
	}
	if err := a.Account.Available(c.Request().Context(), name); err != nil {
		return nil, err
	}
	return map[string]bool{"available": true}, nil
}

func (a *API) registrationTokenValidity(c *call) (any, error) {
	token := c.query("token")
	if token == "" {
		return nil, missing("token")
	}
	valid, err := a.Account.RegistrationTokenValid(c.Request().Context(), token)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"valid": valid}, nil
}

func (a *API) sharedNonce(c *call) (any, error) {
	nonce, err := a.Account.Nonce(c.Request().Context())
	if err != nil {
		return nil, err
	}
	return map[string]string{"nonce": nonce}, nil
}

func (a *API) registerShared(c *call) (any, error) {
	var in struct {
		Nonce    string `json:"nonce"`
		Username string `json:"username"`
		Password string `json:"password"`
		Admin    bool   `json:"admin"`
		UserType string `json:"user_type"`
		MAC      string `json:"mac"`
		Name     string `json:"displayname"`
		deviceRequest
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if in.Username == "" {
		return nil, missing("username")
	}
	l, err := a.Account.RegisterShared(c.Request().Context(), account.Account{
		Username: in.Username, Password: in.Password, Admin: in.Admin, DisplayName: in.Name, Device: account.DeviceRequest(in.deviceRequest),
	}, account.SharedProof{Nonce: in.Nonce, UserType: in.UserType, MAC: in.MAC})
	if err != nil {
		return nil, err
	}
	return a.loginAnswer(l), nil
}
