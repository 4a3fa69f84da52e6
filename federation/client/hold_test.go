package client_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
)

// TestWhatIsWorkedOnGoesOnCounting: an answer that may be as large as a room counts until whoever asked for it is done with it.
func TestWhatIsWorkedOnGoesOnCounting(t *testing.T) {
	const one id.ServerName = "one.test"
	const answer = `{"pdus":[{"e":1}],"auth_chain":[{"e":2}],"state":[{"e":3}],"events":[{"e":4}]}`
	w := newWorld(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) }))
	for name, call := range map[string]func(context.Context) error{
		"a join": func(ctx context.Context) error {
			_, err := w.client.SendJoin(ctx, one, "!r:one.test", "$e", json.RawMessage(`{}`), false)
			return err
		},
		"a state": func(ctx context.Context) error {
			_, err := w.client.State(ctx, one, "!r:one.test", "$e")
			return err
		},
		"an auth chain": func(ctx context.Context) error {
			_, err := w.client.EventAuth(ctx, one, "!r:one.test", "$e")
			return err
		},
		"a page of history": func(ctx context.Context) error {
			_, err := w.client.Backfill(ctx, one, "!r:one.test", []id.EventID{"$e"}, 10)
			return err
		},
		"missing events": func(ctx context.Context) error {
			_, err := w.client.MissingEvents(ctx, one, "!r:one.test", client.MissingEvents{})
			return err
		},
	} {
		if err := call(t.Context()); err != nil || client.Counted(w.client) != 0 {
			t.Errorf("%s that nobody works on: %v, %d bytes count", name, err, client.Counted(w.client))
		}
		ctx, release := load.WithHold(t.Context(), "@alice:us.test")
		if err := call(ctx); err != nil || client.Counted(w.client) != int64(len(answer)) {
			t.Errorf("%s: %v, %d bytes count", name, err, client.Counted(w.client))
		}
		if release(); client.Counted(w.client) != 0 {
			t.Errorf("%s: %d bytes count for ever", name, client.Counted(w.client))
		}
	}
}
