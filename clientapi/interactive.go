package clientapi

import (
	"encoding/json"

	"github.com/securecomm/securecomm/homeserver/account"
)

// decodeConfirmed reads the body of a request that needs interactive authentication. What it asks for may have been said
// when the session was begun, and is then left out (Client-Server API, "User-Interactive Authentication API"). The Auth is
// never nil.
func (a *API) decodeConfirmed(c *call, operation string, into any) (*account.Auth, error) {
	members := map[string]json.RawMessage{}
	if err := c.decode(&members); err != nil {
		return nil, err
	}
	auth := &account.Auth{}
	if raw := members["auth"]; len(raw) > 0 && string(raw) != "null" {
		if err := unmarshal(raw, auth); err != nil {
			return nil, err
		}
	}
	delete(members, "auth")
	var err error
	if auth.Params, err = json.Marshal(members); err != nil {
		return nil, err
	}
	params, err := a.Account.Params(c.Request().Context(), c.Requester.User, operation, auth)
	if err != nil || len(params) == 0 {
		return auth, err
	}
	return auth, unmarshal(params, into)
}
