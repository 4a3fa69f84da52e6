package federation

import (
	"errors"
	"net/http"
	"time"

	"github.com/securecomm/securecomm/federation/keyring"
	"github.com/securecomm/securecomm/federation/xmatrix"
	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// maxHeaders is how many Authorization headers of a request are looked at.
const maxHeaders = 8

// claim is the first Authorization header of a request that could prove which server makes it. Only one is tried, or one
// request could have us ask many servers for their keys, and check its body many times.
func (a *API) claim(r *http.Request) (claim xmatrix.Header, err error) {
	headers := r.Header.Values("Authorization")
	refusal := unauthorized("an X-Matrix signature is needed")
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
			return h, fail(http.StatusForbidden, "M_FORBIDDEN", "this server does not federate with yours")
		default:
			return h, nil
		}
	}
	return claim, refusal
}

// Limits of what strangers can cause before they have proved who they are.
const (
	meetingsAll = 64 // servers that are asked for their keys at a time because of requests
	meetingsFor = 4  // of them for one address or IPv6 network
)

var (
	// strangeRate is how many other servers are asked for their keys because of one address or IPv6 network.
	strangeRate = Rate{Count: 30, Per: time.Minute}
	// forgedRate is how many requests of one address or IPv6 network may fail to prove who makes them.
	forgedRate = Rate{Count: 30, Per: time.Minute}
)

// meet makes sure that the key is at hand that a request needs, before the request's body is read.
func (a *API) meet(r *http.Request, claim xmatrix.Header, who string) error {
	if err := a.forged.exhausted(who); err != nil {
		return err
	}
	err := a.Keyring.Meet(r.Context(), claim.Origin, claim.Key, func(lose func(error)) (func(), error) {
		if err := a.strange.check(who); err != nil {
			return nil, err
		}
		return a.meetings.enterLosable(r.Context(), who, func() { lose(tooBusy()) })
	})
	if errors.Is(err, keyring.ErrNoKey) {
		_ = a.forged.check(who) // counts it
		err = unauthorized(err.Error())
	}
	return err
}

// authenticate finds out which server makes a request, by its signature (Server-Server API, "Request
// Authentication").
func (a *API) authenticate(c *call, claim xmatrix.Header, who string) error {
	r := c.Request()
	err := a.Keyring.VerifyRequest(r.Context(), claim, xmatrix.Request{Method: r.Method, URI: r.RequestURI, Content: c.raw})
	switch {
	case err == nil:
		c.Origin = claim.Origin
		if a.Woke != nil {
			a.Woke(claim.Origin)
		}
		return nil
	case errors.Is(err, canonicaljson.ErrInvalid):
		err = fail(http.StatusBadRequest, "M_NOT_JSON", "the body is not valid JSON")
	case errors.Is(err, keyring.ErrNoKey), errors.Is(err, sign.ErrBadSignature), errors.Is(err, xmatrix.ErrOtherDestination):
		err = unauthorized(err.Error())
	default:
		return err
	}
	_ = a.forged.check(who) // counts it
	return err
}

func unauthorized(message string) error {
	return fail(http.StatusUnauthorized, "M_UNAUTHORIZED", message)
}
