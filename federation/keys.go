package federation

import (
	"encoding/json"
	"net/http"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/federation/keyring"
	"github.com/securecomm/securecomm/homeserver/id"
)

func (a *API) keyRoutes() []route {
	return []route{
		{GET, "/v1/version", public, none, a.version},
		{GET, "/_matrix/key/v2/server", public, none, a.serverKeys},
		{GET, "/_matrix/key/v2/server/", public, none, a.serverKeys},
		{GET, "/_matrix/key/v2/server/:keyId", public, none, a.serverKeys}, // deprecated: all keys, whichever is asked for
		{GET, "/_matrix/key/v2/query/:serverName", public, none, a.notaryQuery},
		{POST, "/_matrix/key/v2/query", public, small, a.notaryQueries},
	}
}

func (a *API) version(*call) (any, error) {
	return map[string]any{"server": a.Software}, nil
}

func (a *API) serverKeys(*call) (any, error) {
	return a.Keyring.Own()
}

func (a *API) notaryQuery(c *call) (any, error) {
	server, err := id.ParseServerName(c.path("serverName"))
	if err != nil {
		return nil, err
	}
	return a.notarize(c, map[id.ServerName]map[id.KeyID]int64{server: nil})
}

func (a *API) notaryQueries(c *call) (any, error) {
	var body struct {
		Keys map[string]map[id.KeyID]client.KeyCriteria `json:"server_keys"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if len(body.Keys) > keyring.MaxNotarized {
		return nil, fail(http.StatusRequestEntityTooLarge, "M_TOO_LARGE", "too many servers at once")
	}
	wanted := map[id.ServerName]map[id.KeyID]int64{}
	for name, criteria := range body.Keys {
		server, err := id.ParseServerName(name)
		if err != nil {
			return nil, err
		}
		until := map[id.KeyID]int64{}
		for keyID, k := range criteria {
			until[keyID] = k.MinimumValidUntil
		}
		wanted[server] = until
	}
	return a.notarize(c, wanted)
}

func (a *API) notarize(c *call, wanted map[id.ServerName]map[id.KeyID]int64) (any, error) {
	for server := range wanted {
		if server != a.Server && a.Allows != nil && !a.Allows(server) {
			delete(wanted, server)
		}
	}
	lists, err := a.Keyring.Notarize(c.Request().Context(), wanted)
	return map[string]any{"server_keys": list(lists, func(l json.RawMessage) []byte { return l })}, err
}
