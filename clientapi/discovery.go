package clientapi

import (
	"net/http"

	"github.com/securecomm/securecomm/homeserver/event"
)

// Discovery is what the server says of itself under /.well-known/matrix. What is empty is not served.
type Discovery struct {
	BaseURL      string // where clients reach the server
	Federation   string // "host" or "host:port" where other servers reach it
	SupportEmail string
	SupportPage  string
}

func (a *API) discoveryRoutes() []route {
	return []route{
		{GET, "/versions", public, none, a.versions},
		{GET, "/v3/capabilities", user, none, a.capabilities},
		{GET, "/.well-known/matrix/client", public, none, a.wellKnownClient},
		{GET, "/.well-known/matrix/server", public, none, a.wellKnownServer},
		{GET, "/.well-known/matrix/support", public, none, a.wellKnownSupport},
	}
}

// supportedVersions are those of the specification. Of the older ones, clients ask for exactly these.
var supportedVersions = []string{
	"r0.5.0", "r0.6.0", "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10",
	"v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
}

func (a *API) versions(*call) (any, error) {
	there := make(map[string]bool, len(features))
	for _, f := range features {
		there[f.name] = true
	}
	return map[string]any{"versions": supportedVersions, "unstable_features": there}, nil
}

func (a *API) capabilities(*call) (any, error) {
	available := map[string]string{}
	for _, v := range event.Versions() {
		available[string(v)] = "stable"
	}
	yes, no := map[string]bool{"enabled": true}, map[string]bool{"enabled": false}
	return map[string]any{"capabilities": map[string]any{
		"m.room_versions":   map[string]any{"default": a.Rooms.DefaultVersion, "available": available},
		"m.change_password": yes,
		"m.set_displayname": yes,
		"m.set_avatar_url":  yes,
		"m.profile_fields":  yes,
		"m.get_login_token": yes,
		"m.3pid_changes":    no,
	}}, nil
}

var errNotServed = fail(http.StatusNotFound, "M_NOT_FOUND", "this server says nothing about it")

func (a *API) wellKnownClient(*call) (any, error) {
	if a.Discovery.BaseURL == "" {
		return nil, errNotServed
	}
	return map[string]any{"m.homeserver": map[string]string{"base_url": a.Discovery.BaseURL}}, nil
}

func (a *API) wellKnownServer(*call) (any, error) {
	if a.Discovery.Federation == "" {
		return nil, errNotServed
	}
	return map[string]string{"m.server": a.Discovery.Federation}, nil
}

func (a *API) wellKnownSupport(*call) (any, error) {
	answer := map[string]any{}
	if a.Discovery.SupportEmail != "" {
		answer["contacts"] = []map[string]string{{"email_address": a.Discovery.SupportEmail, "role": "m.role.admin"}}
	}
	if a.Discovery.SupportPage != "" {
		answer["support_page"] = a.Discovery.SupportPage
	}
	if len(answer) == 0 {
		return nil, errNotServed
	}
	return answer, nil
}
