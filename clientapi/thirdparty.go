package clientapi

import "net/http"

func (a *API) thirdPartyRoutes() []route {
	return []route{
		{GET, "/v3/thirdparty/protocols", user, none, a.nothing},
		{GET, "/v3/thirdparty/protocol/:protocol", user, none, a.noProtocol},
		{GET, "/v3/thirdparty/location/:protocol", user, none, a.noProtocol},
		{GET, "/v3/thirdparty/user/:protocol", user, none, a.noProtocol},
		{GET, "/v3/thirdparty/location", user, none, a.emptyList},
		{GET, "/v3/thirdparty/user", user, none, a.emptyList},
		{GET, "/v3/voip/turnServer", user, none, a.nothing},
	}
}

// There are no bridges and there is no TURN server: these answers say so.

func (a *API) nothing(*call) (any, error) { return nil, nil }

func (a *API) emptyList(*call) (any, error) { return []any{}, nil }

func (a *API) noProtocol(*call) (any, error) {
	return nil, fail(http.StatusNotFound, "M_NOT_FOUND", "this server has no bridge for that protocol")
}
