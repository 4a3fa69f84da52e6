package client_test

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/federation/discovery"
	"github.com/securecomm/securecomm/homeserver/id"
)

func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestConnectionsBelongToOneServerName(t *testing.T) {
	handler := &delegate{}
	w := newWorld(t, handler)
	handler.set(answers(200, `{}`))
	call := func(to id.ServerName) {
		t.Helper()
		if _, err := w.client.Version(t.Context(), to); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		call("one.test")
	}
	if n := w.connections.Load(); n != 1 {
		t.Errorf("%d connections for three requests to one server", n)
	}
	call("two.test") // has the same address; its first SRV target refuses, its second does not
	if n := w.connections.Load(); n != 2 {
		t.Errorf("%d connections for two servers", n)
	}
	call("two.test")
	if n := w.connections.Load(); n != 2 {
		t.Errorf("%d connections after all", n)
	}
}

func TestHostIsTheOneOfDiscovery(t *testing.T) {
	handler := &delegate{}
	w := newWorld(t, handler)
	for _, to := range []id.ServerName{"one.test", "two.test", "127.0.0.1"} {
		handler.set(exchange{method: "GET", uri: f1 + "/query/profile?user_id=", answer: "{}"}.serve(t, to, w.client.Key.Public()))
		if _, err := w.client.Profile(t.Context(), to, "", ""); err != nil {
			t.Error(err)
		}
	}
}

func TestCertificateMustFitTheName(t *testing.T) {
	handler := &delegate{}
	w := newWorld(t, handler)
	handler.set(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request was sent to an impostor") }))
	if _, err := w.client.Version(t.Context(), "liar.test"); err == nil {
		t.Error("no error")
	}
	other := &client.Client{Server: "us.test", Key: w.client.Key, Resolver: w.client.Resolver}
	if _, err := other.Version(t.Context(), "one.test"); err == nil {
		t.Error("a certificate of an unknown authority was accepted")
	}
}

func TestErrors(t *testing.T) {
	handler := &delegate{}
	w := newWorld(t, handler)
	long := strings.Repeat("ä", 400)
	for _, c := range []struct {
		what   string
		status int
		header http.Header
		body   string
		want   client.Error
	}{
		{"with a code", 403, nil, `{"errcode":"M_FORBIDDEN","error":"no"}`, client.Error{Code: "M_FORBIDDEN", Message: "no"}},
		{"not JSON", 502, nil, `<html>`, client.Error{}},
		{"empty", 500, nil, ``, client.Error{}},
		{"too large", 500, nil, `{"errcode":"M_X","pad":"` + strings.Repeat("a", 64<<10) + `"}`, client.Error{}},
		{"long message", 400, nil, `{"errcode":"M_X","error":"` + long + `"}`, client.Error{Code: "M_X", Message: long[:500]}},
		{"limited, by the body", 429, nil, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1500}`, client.Error{Code: "M_LIMIT_EXCEEDED", RetryAfter: 1500 * time.Millisecond}},
		{"limited, by the header", 429, http.Header{"Retry-After": {"7"}}, `{"retry_after_ms":1500}`, client.Error{RetryAfter: 7 * time.Second}},
		{"limited for ever", 429, nil, `{"retry_after_ms":1e300}`, client.Error{RetryAfter: 24 * time.Hour}},
		{"limited backwards", 429, nil, `{"retry_after_ms":-5}`, client.Error{}},
		{"version", 400, nil, `{"errcode":"M_INCOMPATIBLE_ROOM_VERSION","room_version":"99"}`, client.Error{Code: "M_INCOMPATIBLE_ROOM_VERSION", RoomVersion: "99"}},
		{"redirect", 302, http.Header{"Location": {"https://two.test/"}}, ``, client.Error{}},
	} {
		t.Run(c.what, func(t *testing.T) {
			handler.set(http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
				for name, values := range c.header {
					out.Header()[name] = values
				}
				answers(c.status, c.body)(out, nil)
			}))
			c.want.Server, c.want.Status = one, c.status
			_, err := w.client.MakeJoin(t.Context(), one, room, user, nil)
			var got *client.Error
			if !errors.As(err, &got) || *got != c.want {
				t.Errorf("got %+v, want %+v", err, c.want)
			}
		})
	}
}

func TestMalformedAnswers(t *testing.T) {
	handler := &delegate{}
	w := newWorld(t, handler)
	ctx, c := t.Context(), w.client
	for what, o := range map[string]struct {
		answer string
		call   func() error
	}{
		"not JSON":                {`<html>`, func() error { _, err := c.Event(ctx, one, event); return err }},
		"empty":                   {``, func() error { _, err := c.ServerKeys(ctx, one); return err }},
		"no event":                {`{"pdus":[]}`, func() error { _, err := c.Event(ctx, one, event); return err }},
		"two events":              {`{"pdus":[{},{}]}`, func() error { _, err := c.Event(ctx, one, event); return err }},
		"no template":             {`{}`, func() error { _, err := c.MakeJoin(ctx, one, room, user, nil); return err }},
		"no invite":               {`{}`, func() error { _, err := c.Invite(ctx, one, room, event, client.Invite{Event: raw(`{}`)}); return err }},
		"no room":                 {`{"servers":["one.test"]}`, func() error { _, err := c.Directory(ctx, one, "#a:one.test"); return err }},
		"no event at a time":      {`{"event_id":"x"}`, func() error { _, _, err := c.TimestampToEvent(ctx, one, room, 1, "b"); return err }},
		"devices of someone else": {`{"user_id":"@x:one.test"}`, func() error { _, err := c.UserDevices(ctx, one, user); return err }},
		"token of someone else":   {`{"sub":"@x:two.test"}`, func() error { _, err := c.OpenIDUserInfo(ctx, one, "t"); return err }},
	} {
		t.Run(what, func(t *testing.T) {
			handler.set(answers(200, o.answer))
			if err := o.call(); !errors.Is(err, client.ErrMalformed) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAnswersAreBounded(t *testing.T) {
	handler := &delegate{}
	w := newWorld(t, handler)
	const limit = 1 << 20
	for size, ok := range map[int]bool{limit: true, limit + 1: false} {
		handler.set(answers(200, `{"a":"`+strings.Repeat("a", size-len(`{"a":""}`))+`"}`))
		_, err := w.client.Profile(t.Context(), one, user, "")
		if (err == nil) != ok || errors.Is(err, client.ErrTooLarge) == ok {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestRefusedDestinations(t *testing.T) {
	w := newWorld(t, &delegate{})
	if _, err := w.client.Version(t.Context(), "us.test"); !errors.Is(err, client.ErrSelf) {
		t.Errorf("ourselves: %v", err)
	}
	if _, err := w.client.Version(t.Context(), "a/b"); !errors.Is(err, id.ErrInvalid) {
		t.Errorf("no server name: %v", err)
	}
	for _, to := range []id.ServerName{"10.0.0.1", "[::1]:8448", "169.254.169.254:80"} {
		if _, err := w.client.Version(t.Context(), to); !errors.Is(err, discovery.ErrForbiddenAddress) {
			t.Errorf("%s: %v", to, err)
		}
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	handler := &delegate{}
	w := newWorld(t, handler)
	entered := make(chan struct{})
	handler.set(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-entered
		cancel()
	}()
	if _, err := w.client.Version(ctx, one); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Compressed, a small answer could become as large as its limit.
func TestAnswersAreNotCompressed(t *testing.T) {
	handler := &delegate{}
	w := newWorld(t, handler)
	handler.set(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if accepted := r.Header.Get("Accept-Encoding"); accepted != "" {
			t.Errorf("asks for %s", accepted)
		}
		out.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(out)
		_, _ = io.WriteString(z, `{"pdu_ids":[]}`)
		_ = z.Close()
	}))
	if _, err := w.client.StateIDs(t.Context(), one, room, event); !errors.Is(err, client.ErrMalformed) {
		t.Errorf("a compressed answer: %v", err)
	}
}

// The lists of each kind of answer have a limit.
func TestAnswersHaveLimits(t *testing.T) {
	handler := &delegate{}
	w := newWorld(t, handler)
	ctx, c := t.Context(), w.client
	many := func(entry string, n int) string { return strings.TrimSuffix(strings.Repeat(entry+",", n), ",") }
	for what, o := range map[string]struct {
		form  string
		entry string
		most  int
		call  func() error
	}{
		"state_ids":          {`{"pdu_ids":[%s]}`, `"$"`, 200000, func() error { _, err := c.StateIDs(ctx, one, room, event); return err }},
		"auth chain's IDs":   {`{"auth_chain_ids":[%s]}`, `"$"`, 200000, func() error { _, err := c.StateIDs(ctx, one, room, event); return err }},
		"state":              {`{"pdus":[%s]}`, `0`, 200000, func() error { _, err := c.State(ctx, one, room, event); return err }},
		"event_auth":         {`{"auth_chain":[%s]}`, `0`, 200000, func() error { _, err := c.EventAuth(ctx, one, room, event); return err }},
		"send_join":          {`{"state":[%s]}`, `0`, 200000, func() error { _, err := c.SendJoin(ctx, one, room, event, raw(`{}`), false); return err }},
		"backfill":           {`{"pdus":[%s]}`, `0`, 1000, func() error { _, err := c.Backfill(ctx, one, room, nil, 1); return err }},
		"get_missing_events": {`{"events":[%s]}`, `0`, 1000, func() error { _, err := c.MissingEvents(ctx, one, room, client.MissingEvents{}); return err }},
		"notary":             {`{"server_keys":[%s]}`, `0`, 1000, func() error { _, err := c.NotaryQuery(ctx, one, nil); return err }},
		"rooms":              {`{"chunk":[%s]}`, `0`, 50000, func() error { _, err := c.PublicRooms(ctx, one, client.PublicRoomsQuery{}); return err }},
		"hierarchy":          {`{"children":[%s]}`, `0`, 50000, func() error { _, err := c.Hierarchy(ctx, one, room, false); return err }},
		"keys/query":         {`{"device_keys":{},"other":[%s]}`, `0`, 499999, func() error { _, err := c.KeysQuery(ctx, one, nil); return err }},
	} {
		for n, want := range map[int]error{o.most: nil, o.most + 1: client.ErrTooLarge} {
			handler.set(answers(200, fmt.Sprintf(o.form, many(o.entry, n))))
			if err := o.call(); !errors.Is(err, want) {
				t.Errorf("%s: %d entries: %v", what, n, err)
			}
		}
	}
}
