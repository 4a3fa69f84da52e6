package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Session is what a server answers to a login or a registration.
type Session struct {
	UserID   id.UserID   `json:"user_id"`
	DeviceID id.DeviceID `json:"device_id"`
	Token    string      `json:"access_token"`
	Refresh  string      `json:"refresh_token"` // empty if the access token does not expire
}

// Versions are the versions of the specification that the server supports.
func (c *Client) Versions(ctx context.Context) ([]string, error) {
	var out struct {
		Versions []string `json:"versions"`
	}
	err := c.do(ctx, call{method: http.MethodGet, path: "/_matrix/client/versions", anon: true}, &out)
	if err == nil && len(out.Versions) == 0 {
		return nil, errors.New("the server names no version of the specification")
	}
	return out.Versions, err
}

// Login logs in by password. An empty device makes a new one.
func (c *Client) Login(ctx context.Context, user, password string, device id.DeviceID, deviceName string) (Session, error) {
	body := map[string]any{
		"type":       "m.login.password",
		"identifier": map[string]string{"type": "m.id.user", "user": user},
		"password":   password,

		"refresh_token": true,
	}
	if device != "" {
		body["device_id"] = device
	}
	if deviceName != "" {
		body["initial_device_display_name"] = deviceName
	}
	var out Session
	err := c.do(ctx, call{method: http.MethodPost, path: "/_matrix/client/v3/login", body: body, anon: true}, &out)
	return out, checkSession(out, err)
}

// Register makes an account, completing the stages "m.login.dummy" and, if a token is given,
// "m.login.registration_token". A token is used wherever the server takes one: it may make an administrator.
func (c *Client) Register(ctx context.Context, name, password, token, deviceName string) (Session, error) {
	able := []string{"m.login.dummy"}
	if token != "" {
		able = []string{"m.login.registration_token", "m.login.dummy"}
	}
	var out Session
	err := c.interactive(able, func(auth map[string]any) error {
		if auth != nil && auth["type"] == "m.login.registration_token" {
			auth["token"] = token
		}
		body := map[string]any{"username": name, "password": password, "refresh_token": true}
		if deviceName != "" {
			body["initial_device_display_name"] = deviceName
		}
		if auth != nil {
			body["auth"] = auth
		}
		return c.do(ctx, call{method: http.MethodPost, path: "/_matrix/client/v3/register", body: body, anon: true}, &out)
	})
	return out, checkSession(out, err)
}

func checkSession(s Session, err error) error {
	if err == nil && (s.Token == "" || s.UserID == "" || s.DeviceID == "") {
		return errors.New("the server's answer to the login lacks user, device or token")
	}
	return err
}

func (c *Client) token() string {
	c.renewing.Lock()
	defer c.renewing.Unlock()
	return c.Token
}

// renew gets new tokens in the place of an access token that has expired (Client-Server API, "Refreshing access tokens"),
// unless another call has done so already.
func (c *Client) renew(ctx context.Context, expired string) error {
	c.renewing.Lock()
	defer c.renewing.Unlock()
	if c.Token != expired {
		return nil
	}
	if c.Refresh == "" {
		return &Error{Status: http.StatusUnauthorized, Code: "M_UNKNOWN_TOKEN", Message: "the session can't be renewed"}
	}
	var got Session
	err := c.do(ctx, call{method: http.MethodPost, path: "/_matrix/client/v3/refresh", body: map[string]string{"refresh_token": c.Refresh}, anon: true}, &got)
	if err != nil {
		return err
	}
	if got.Token == "" {
		return errors.New("the server renewed the session without an access token")
	}
	if got.Refresh == "" {
		got.Refresh = c.Refresh // stays valid
	}
	if c.Renewed != nil {
		if err := c.Renewed(got.Token, got.Refresh); err != nil {
			return err
		}
	}
	c.Token, c.Refresh = got.Token, got.Refresh
	return nil
}

// maxStages bounds how often a server may ask for one more stage.
const maxStages = 8

// interactive makes a call until the server has had all stages of authentication that it asks for. try gets
// nil at first, then the "auth" object to complete for its "type".
func (c *Client) interactive(able []string, try func(auth map[string]any) error) error {
	err := try(nil)
	for range maxStages {
		var refused *Error
		if !errors.As(err, &refused) || refused.Auth == nil || refused.Code != "" && refused.Code != "M_UNAUTHORIZED" {
			return err
		}
		stage, ok := refused.Auth.Next(able)
		if !ok {
			return &StagesError{Flows: refused.Auth.Flows}
		}
		err = try(map[string]any{"type": stage, "session": refused.Auth.Session})
	}
	return err
}

// StagesError says that a server asks for a kind of authentication that this client can't do, or lacks
// the secret for.
type StagesError struct{ Flows []Flow }

// Error lists what the server asks for.
func (e *StagesError) Error() string {
	flows, err := json.Marshal(e.Flows)
	if err != nil {
		return "the server asks for another kind of authentication"
	}
	return "the server asks for another kind of authentication: " + printable(string(flows))
}

// Logout ends the session.
func (c *Client) Logout(ctx context.Context) error {
	return c.do(ctx, call{method: http.MethodPost, path: "/_matrix/client/v3/logout", body: struct{}{}}, nil)
}

// WhoAmI asks the server who the session belongs to.
func (c *Client) WhoAmI(ctx context.Context) (Session, error) {
	var out Session
	err := c.do(ctx, call{method: http.MethodGet, path: "/_matrix/client/v3/account/whoami"}, &out)
	return out, err
}

// Device is one of the user's own sessions as the server lists it.
type Device struct {
	ID       id.DeviceID `json:"device_id"`
	Name     string      `json:"display_name,omitempty"`
	LastSeen int64       `json:"last_seen_ts,omitempty"` // milliseconds since 1970
	LastIP   string      `json:"last_seen_ip,omitempty"`
}

// Devices lists the user's sessions.
func (c *Client) Devices(ctx context.Context) ([]Device, error) {
	var out struct {
		Devices []Device `json:"devices"`
	}
	err := c.do(ctx, call{method: http.MethodGet, path: "/_matrix/client/v3/devices"}, &out)
	return out.Devices, err
}

// RenameDevice sets the name that others see.
func (c *Client) RenameDevice(ctx context.Context, device id.DeviceID, name string) error {
	return c.do(ctx, call{method: http.MethodPut, path: path("/_matrix/client/v3/devices/%s", string(device)),
		body: map[string]string{"display_name": name}}, nil)
}

// DeleteDevice ends another session of the user. The server asks for the password, which password provides.
func (c *Client) DeleteDevice(ctx context.Context, device id.DeviceID, user id.UserID, password func() (string, error)) error {
	return c.withPassword(user, password, func(auth map[string]any) error {
		body := map[string]any{}
		if auth != nil {
			body["auth"] = auth
		}
		return c.do(ctx, call{method: http.MethodDelete, path: path("/_matrix/client/v3/devices/%s", string(device)), body: body}, nil)
	})
}

// withPassword is interactive for calls that the user's password confirms.
func (c *Client) withPassword(user id.UserID, password func() (string, error), try func(map[string]any) error) error {
	return c.interactive([]string{"m.login.password", "m.login.dummy"}, func(auth map[string]any) error {
		if auth != nil && auth["type"] == "m.login.password" {
			secret, err := password()
			if err != nil {
				return err
			}
			auth["identifier"] = map[string]string{"type": "m.id.user", "user": string(user)}
			auth["password"] = secret
		}
		return try(auth)
	})
}

// Name is the display name of a user; empty if there is none.
func (c *Client) Name(ctx context.Context, user id.UserID) (string, error) {
	var out struct {
		Name string `json:"displayname"`
	}
	err := c.do(ctx, call{method: http.MethodGet, path: path("/_matrix/client/v3/profile/%s/displayname", string(user))}, &out)
	return printable(out.Name), err
}

// AccountData reads one global record of account data into out.
func (c *Client) AccountData(ctx context.Context, user id.UserID, kind string, out any) error {
	return c.do(ctx, call{method: http.MethodGet, path: path("/_matrix/client/v3/user/%s/account_data/%s", string(user), kind)}, out)
}

// SetAccountData writes one global record of account data.
func (c *Client) SetAccountData(ctx context.Context, user id.UserID, kind string, content any) error {
	return c.do(ctx, call{method: http.MethodPut, path: path("/_matrix/client/v3/user/%s/account_data/%s", string(user), kind), body: content}, nil)
}
