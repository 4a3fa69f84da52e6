package client

import (
	"context"
	"net/http"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// RegistrationToken makes a token with which others may register: uses times (0: any number), for a time (0: for
// ever). The server takes it from its administrators only.
func (c *Client) RegistrationToken(ctx context.Context, uses int, life time.Duration) (string, error) {
	body := map[string]any{}
	if uses > 0 {
		body["uses_allowed"] = uses
	}
	if life > 0 {
		body["expiry_time"] = time.Now().Add(life).UnixMilli()
	}
	var out struct {
		Token string `json:"token"`
	}
	err := c.do(ctx, call{method: http.MethodPost, path: "/_synapse/admin/v1/registration_tokens/new", body: body}, &out)
	return printable(out.Token), err
}

// SetAdmin makes a user an administrator of the server, or no longer.
func (c *Client) SetAdmin(ctx context.Context, user id.UserID, admin bool) error {
	return c.do(ctx, call{method: http.MethodPut, path: path("/_synapse/admin/v1/users/%s/admin", string(user)),
		body: map[string]bool{"admin": admin}}, nil)
}
