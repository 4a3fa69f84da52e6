package clientapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/securecomm/securecomm/homeserver/clientsync"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/store"
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
		if r.Since, err = a.syncToken(c.Request().Context(), since); err != nil {
			return nil, err
		}
		r.Lost = r.Since == nil
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
	defer answer.Close()
	if ctx.Err() != nil {
		return nil, fail(http.StatusRequestTimeout, "M_UNKNOWN", "the client has gone")
	}
	if err != nil {
		return nil, err
	}
	return nil, writeSync(c, &answer)
}

// writeSync writes an answer. A large one has to make room for others, and what it does not hold is read meanwhile.
func writeSync(c *call, answer *clientsync.Answer) error {
	if answer.Large() {
		answer.Losable(func() { _ = http.NewResponseController(c.Response()).SetWriteDeadline(time.Now()) })
		c.Response().Writer = &losable{c.Response().Writer, answer.Lost}
	}
	if answer.Whole() {
		err := writeAnswer(&call{Context: c.Context}, json.RawMessage(answer.Body)) // it is charged already
		if answer.Large() && answer.Lost() {
			err = load.ErrBusy
		}
		return (&outgoing{c: c}).whole(err)
	}
	out := outgoing{c: c}
	return out.whole(answer.Each(c.Request().Context(), func(piece []byte) error {
		if !c.Response().Committed {
			out.head()
		}
		out.buf = piece
		return out.flush()
	}))
}

// losable writes an answer until it is lost.
type losable struct {
	http.ResponseWriter
	lost func() bool
}

// losablePiece is how many bytes are written until it is looked whether the answer is lost.
const losablePiece = 64 << 10

func (w *losable) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		if w.lost() {
			return n, load.ErrBusy
		}
		var written int
		written, err = w.ResponseWriter.Write(p[n:min(len(p), n+losablePiece)])
		n += written
	}
	return n, err
}

// Unwrap is for http.ResponseController.
func (w *losable) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// syncToken reads a token of /sync; nil if it is of a life of the database that was lost. Only tokens of histories are
// before the beginning of the log.
func (a *API) syncToken(ctx context.Context, text string) (token *stream.Token, err error) {
	err = a.Store.Glance(ctx, func(tx *store.Tx) error {
		t, life, err := tx.ReadToken(text)
		if err == nil && (t.Position < 0 || t.Volatile < 0) {
			err = stream.ErrBadToken
		}
		if life == stream.Ours {
			token = &t
		}
		return err
	})
	return token, err
}
