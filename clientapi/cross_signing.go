package clientapi

import (
	"encoding/json"
	"errors"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
)

func (a *API) crossSigningRoutes() []route {
	return []route{
		{POST, "/v3/keys/device_signing/upload", user, limitConfirm, a.uploadSigningKeys},
		{POST, "/v3/keys/signatures/upload", user, none, a.uploadSignatures},
	}
}

func (a *API) uploadSigningKeys(c *call) (any, error) {
	var in struct {
		Master      json.RawMessage `json:"master_key"`
		SelfSigning json.RawMessage `json:"self_signing_key"`
		UserSigning json.RawMessage `json:"user_signing_key"`
	}
	const operation = "upload cross-signing keys"
	auth, err := a.decodeConfirmed(c, operation, &in)
	if err != nil {
		return nil, err
	}
	ctx := c.Request().Context()
	signing := keys.SigningKeys{Master: in.Master, SelfSigning: in.SelfSigning, UserSigning: in.UserSigning}
	err = a.Keys.UploadSigningKeys(ctx, c.Requester.User, signing, false)
	if !errors.Is(err, keys.ErrNeedsAuth) {
		return nil, err
	}
	if err := a.Account.Confirm(ctx, c.Requester, operation, auth); err != nil {
		return nil, err
	}
	return nil, a.Keys.UploadSigningKeys(ctx, c.Requester.User, signing, true)
}

func (a *API) uploadSignatures(c *call) (any, error) {
	var in keys.Signatures
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	for u := range in {
		if _, err := id.ParseUserID(string(u)); err != nil {
			return nil, err
		}
	}
	leave, err := a.signing.await(c.Request().Context(), c.Requester.User, 1)
	if err != nil {
		return nil, err
	}
	defer leave()
	refused, err := a.Keys.UploadSignatures(c.Request().Context(), c.Requester.User, in)
	if err != nil {
		return nil, err
	}
	out := map[id.UserID]map[string]any{}
	for u, objects := range refused {
		out[u] = map[string]any{}
		for key, err := range objects {
			f := asFailure(err)
			if f == nil {
				return nil, err
			}
			out[u][key] = map[string]any{"errcode": f.code, "error": f.message}
		}
	}
	return map[string]any{"failures": out}, nil
}
