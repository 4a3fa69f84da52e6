package clientapi

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/securecomm/securecomm/homeserver/clientsync"
	"github.com/securecomm/securecomm/homeserver/stream"
)

func (a *API) syncRoutes() []route {
	return []route{
		{GET, "/v3/sync", user, none, a.sync},
		{GET, "/unstable/dev.securecomm.stream", optional, limitCostly, a.stream},
	}
}

// maxSyncs is how many syncs of a user may be waiting or being read at a time: slow readers keep their answers in memory.
const maxSyncs = 30

func (a *API) sync(c *call) (any, error) {
	timeout, err := c.intQuery("timeout", 0, int(clientsync.MaxTimeout/time.Millisecond))
	if err != nil {
		return nil, err
	}
	r := clientsync.Request{
		User: c.Requester.User, Device: c.Requester.Device, Timeout: time.Duration(timeout) * time.Millisecond,
	}
	if r.FullState, err = c.boolQuery("full_state", false); err != nil {
		return nil, err
	}
	if r.UseStateAfter, err = c.boolQuery("use_state_after", false); err != nil {
		return nil, err
	}
	r.StateAfter = c.answerName("state_after")
	if since := c.query("since"); since != "" {
		token, err := syncToken(since)
		if err != nil {
			return nil, err
		}
		r.Since = &token
	}
	leave, err := a.syncs.enter(r.User, maxSyncs)
	if err != nil {
		return nil, err
	}
	defer leave()
	ctx := c.Request().Context()
	if r.Filter, err = a.Account.Filter(ctx, r.User, c.query("filter")); err != nil {
		return nil, err
	}
	done, err := a.Ephemeral.Syncing(r.User, c.query("set_presence"))
	if err != nil {
		return nil, err
	}
	defer done()
	answer, err := a.Sync.Sync(ctx, r)
	if ctx.Err() != nil {
		return nil, fail(http.StatusRequestTimeout, "M_UNKNOWN", "the client has gone")
	}
	if err != nil {
		return nil, err
	}
	return nil, writeAnswer(c, json.RawMessage(answer.Body))
}

// syncToken reads a token of /sync. Only those of histories are before the beginning of the log.
func syncToken(text string) (stream.Token, error) {
	token, err := stream.ParseToken(text)
	if err == nil && (token.Position < 0 || token.Volatile < 0) {
		err = stream.ErrBadToken
	}
	return token, err
}
