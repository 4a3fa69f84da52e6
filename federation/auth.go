package federation

import (
	"errors"
	"net/http"

	"github.com/securecomm/securecomm/federation/keyring"
	"github.com/securecomm/securecomm/federation/xmatrix"
	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// maxHeaders is how many Authorization headers of a request are looked at: a server may sign with several keys.
const maxHeaders = 8

// claims are the Authorization headers of a request that could prove which server makes it. There is at least one: who
// shows none has no need to send a body.
func (a *API) claims(r *http.Request) ([]xmatrix.Header, error) {
	headers := r.Header.Values("Authorization")
	refusal := unauthorized("an X-Matrix signature is needed")
	var out []xmatrix.Header
	for _, text := range headers[:min(len(headers), maxHeaders)] {
		h, err := xmatrix.Parse(text)
		switch {
		case errors.Is(err, xmatrix.ErrOtherScheme):
		case err != nil:
			refusal = unauthorized(err.Error())
		case h.Origin == a.Server:
			refusal = unauthorized("this server does not ask itself")
		case h.Destination != "" && h.Destination != a.Server:
			refusal = unauthorized(xmatrix.ErrOtherDestination.Error())
		case a.Allows != nil && !a.Allows(h.Origin):
			return nil, fail(http.StatusForbidden, "M_FORBIDDEN", "this server does not federate with yours")
		default:
			out = append(out, h)
		}
	}
	if len(out) == 0 {
		return nil, refusal
	}
	return out, nil
}

// authenticate finds out which server makes a request, by its signature (Server-Server API, "Request
// Authentication"). One good signature is enough.
func (a *API) authenticate(c *call, claims []xmatrix.Header) error {
	r := c.Request()
	var refusal error
	for _, h := range claims {
		err := a.Keyring.VerifyRequest(r.Context(), h, xmatrix.Request{Method: r.Method, URI: r.RequestURI, Content: c.raw})
		switch {
		case err == nil:
			c.Origin = h.Origin
			if a.Woke != nil {
				a.Woke(h.Origin)
			}
			return nil
		case errors.Is(err, canonicaljson.ErrInvalid):
			return fail(http.StatusBadRequest, "M_NOT_JSON", "the body is not valid JSON")
		case errors.Is(err, keyring.ErrNoKey), errors.Is(err, sign.ErrBadSignature), errors.Is(err, xmatrix.ErrOtherDestination):
			refusal = unauthorized(err.Error())
		default:
			return err
		}
	}
	return refusal
}

func unauthorized(message string) error {
	return fail(http.StatusUnauthorized, "M_UNAUTHORIZED", message)
}
