package clientapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/stream"
)

func (a *API) keyRoutes() []route {
	return []route{
		{POST, "/v3/keys/upload", user, none, a.uploadKeys},
		{POST, "/v3/keys/query", user, limitCostly, a.queryKeys},
		{POST, "/v3/keys/claim", user, limitCostly, a.claimKeys},
		{GET, "/v3/keys/changes", user, none, a.keyChanges},
	}
}

func (a *API) uploadKeys(c *call) (any, error) {
	var in struct {
		DeviceKeys json.RawMessage            `json:"device_keys"`
		OneTime    map[string]json.RawMessage `json:"one_time_keys"`
		Fallback   map[string]json.RawMessage `json:"fallback_keys"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	upload := keys.Upload{DeviceKeys: in.DeviceKeys, OneTime: in.OneTime, Fallback: in.Fallback}
	counts, err := a.Keys.Upload(c.Request().Context(), c.Requester.User, c.Requester.Device, upload)
	if err != nil {
		return nil, err
	}
	return map[string]any{"one_time_key_counts": counts}, nil
}

const (
	// maxQueries is how many queries of a user are made at a time, until the answers have gone out.
	maxQueries = 4
	// queriesInLine is how many more may wait: clients make one for each few hundred users.
	queriesInLine = 32
)

func (a *API) queryKeys(c *call) (any, error) {
	var in struct {
		Timeout int64                       `json:"timeout"`
		Users   map[id.UserID][]id.DeviceID `json:"device_keys"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if in.Users == nil {
		return nil, missing("device_keys")
	}
	for u := range in.Users {
		if _, err := id.ParseUserID(string(u)); err != nil {
			return nil, err
		}
	}
	leave, err := a.queries.await(c.Request().Context(), c.Requester.User, maxQueries)
	if err != nil {
		return nil, err
	}
	defer leave()
	found, failures, err := a.Keys.Query(c.Request().Context(), c.Requester.User, in.Users, milliseconds(in.Timeout))
	if err != nil {
		return nil, err
	}
	if err := c.answering(int64(2 * found.Size())); err != nil { // what is found, and what goes out
		return nil, err
	}
	return struct {
		*keys.Published
		Failures map[id.ServerName]any `json:"failures"`
	}{found, describeFailures(failures)}, nil
}

// milliseconds is a time as clients give it.
func milliseconds(n int64) time.Duration {
	return time.Duration(min(max(n, 0), time.Hour.Milliseconds())) * time.Millisecond
}

var couldNotBeAsked = map[string]any{"errcode": "M_UNKNOWN", "error": "the server could not be asked"}

func describeFailures(failures keys.Failures) map[id.ServerName]any {
	out := make(map[id.ServerName]any, len(failures))
	for server, err := range failures {
		if out[server] = couldNotBeAsked; errors.Is(err, keys.ErrTooLarge) {
			out[server] = map[string]any{"errcode": "M_TOO_LARGE", "error": "the answer would be too large: ask again for those users who are not in it"}
		}
	}
	return out
}

// maxClaims is how many claims of a user are made at a time. They wait for other servers.
const maxClaims = 3

func (a *API) claimKeys(c *call) (any, error) {
	var in struct {
		Timeout int64      `json:"timeout"`
		Wants   keys.Wants `json:"one_time_keys"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if in.Wants == nil {
		return nil, missing("one_time_keys")
	}
	for u := range in.Wants {
		if _, err := id.ParseUserID(string(u)); err != nil {
			return nil, err
		}
	}
	leave, err := a.claims.await(c.Request().Context(), c.Requester.User, maxClaims)
	if err != nil {
		return nil, err
	}
	defer leave()
	claimed, failures, err := a.Keys.Claim(c.Request().Context(), in.Wants, milliseconds(in.Timeout))
	if err != nil {
		return nil, err
	}
	return map[string]any{"one_time_keys": claimed, "failures": describeFailures(failures)}, nil
}

func (a *API) keyChanges(c *call) (any, error) {
	from, err := a.tokenQuery(c, "from")
	if err != nil {
		return nil, err
	}
	to, err := a.tokenQuery(c, "to")
	if err != nil {
		return nil, err
	}
	if from == nil {
		from = &stream.Token{} // it may be any that have changed since
	}
	if to == nil {
		to = &stream.Token{Position: a.Store.Hub.Current()}
	}
	changes, err := a.Keys.Changes(c.Request().Context(), c.Requester.User, from.Position, to.Position)
	if err != nil {
		return nil, err
	}
	return map[string]any{"changed": orEmpty(changes.Changed), "left": orEmpty(changes.Left)}, nil
}

// tokenQuery is a query parameter that is a token of a sync; nil if it is of a life of the database that was lost.
func (a *API) tokenQuery(c *call, name string) (*stream.Token, error) {
	text := c.query(name)
	if text == "" {
		return nil, missing(name)
	}
	token, err := a.syncToken(c.Request().Context(), text)
	if errors.Is(err, stream.ErrBadToken) {
		err = fail(http.StatusBadRequest, "M_INVALID_PARAM", name+" is not a token of this server")
	}
	return token, err
}

// orEmpty makes an empty list be written as one.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
