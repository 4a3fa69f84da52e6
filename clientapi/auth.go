package clientapi

import (
	"net/http"
	"strings"
)

// authenticate finds out who calls, as far as the route asks for it.
func (a *API) authenticate(c *call, need auth) error {
	if need == public {
		return nil
	}
	token := accessToken(c)
	if token == "" {
		if need == optional {
			return nil
		}
		return fail(http.StatusUnauthorized, "M_MISSING_TOKEN", "an access token is needed")
	}
	requester, err := a.Account.Authenticate(c.Request().Context(), token)
	if err != nil {
		return err
	}
	if need == admin && !requester.Admin {
		return fail(http.StatusForbidden, "M_FORBIDDEN", "this is for administrators of the server")
	}
	if requester.Unseen() {
		a.Account.Seen(requester, c.RealIP(), c.Request().UserAgent())
	}
	c.Requester = requester
	return nil
}

// accessToken reads the token from the header, or from the query as old clients send it.
func accessToken(c *call) string {
	if header := c.Request().Header.Get("Authorization"); header != "" {
		scheme, token, _ := strings.Cut(header, " ")
		if strings.EqualFold(scheme, "Bearer") {
			return token
		}
		return ""
	}
	return c.query("access_token")
}
