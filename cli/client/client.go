package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// The largest answers that are read, in bytes. A larger one is an error, never a cut-off document.
const (
	maxAnswer     = 16 << 20
	maxSyncAnswer = 128 << 20
	maxErrorBody  = 64 << 10
)

const (
	requestTimeout = 60 * time.Second
	maxRateWait    = 2 * time.Minute
	attempts       = 4
	firstPause     = 250 * time.Millisecond
)

// ErrTooLarge is wrapped when an answer exceeds the limit for its kind.
var ErrTooLarge = errors.New("the answer is larger than allowed")

// Client calls one server as one session. Fields are set before the first call and not changed during calls, but for
// the tokens, which the client itself renews.
type Client struct {
	// Base is the server's base URL without a trailing slash, such as "https://matrix.example.org".
	Base string
	// Token is the access token; empty before login.
	Token string
	// Refresh is the refresh token; empty if the server gave none.
	Refresh string
	// Renewed, if set, has to keep new tokens before they are used, since the server forgets the old ones then.
	Renewed func(token, refresh string) error
	// HTTP carries the calls. It should have no overall timeout, since long polls have their own.
	HTTP *http.Client
	// Waiting, if set, is told before the client waits because the server limits its rate.
	Waiting func(time.Duration)

	renewing sync.Mutex // guards Token and Refresh
}

// call describes one request.
type call struct {
	method  string
	path    string // already escaped, from the root of the server
	query   url.Values
	body    any           // encoded as JSON unless nil or raw
	raw     func() []byte // a body that is not JSON
	kind    string        // content type of raw
	anon    bool          // without the access token
	limit   int64
	timeout time.Duration
}

// do sends the call, waits out rate limits, repeats idempotent calls after failures of the network, and
// decodes the answer into out unless that is nil.
func (c *Client) do(ctx context.Context, what call, out any) error {
	if what.limit == 0 {
		what.limit = maxAnswer
	}
	var payload []byte
	switch {
	case what.raw != nil:
		payload = what.raw()
	case what.body != nil:
		var err error
		if payload, err = json.Marshal(what.body); err != nil {
			return fmt.Errorf("encoding the request: %w", err)
		}
		what.kind = "application/json"
	}
	answer, err := c.persist(ctx, what, payload)
	if err != nil {
		return err // which says itself what it comes from: the server, or the network with the URL
	}
	if out == nil {
		return nil
	}
	if raw, ok := out.(*json.RawMessage); ok && !json.Valid(answer) {
		return fmt.Errorf("%s %s: the answer is not JSON", what.method, what.path)
	} else if ok {
		*raw = answer
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: decoding the answer: %w", what.method, what.path, err)
	}
	return nil
}

func (c *Client) persist(ctx context.Context, what call, payload []byte) ([]byte, error) {
	var waited time.Duration
	pause, renewed := firstPause, false
	for attempt := 1; ; {
		token := ""
		if !what.anon {
			token = c.token()
		}
		answer, err := c.once(ctx, what, payload, token)
		if err == nil {
			return answer, nil
		}
		var wait time.Duration
		var refused *Error
		switch limited := errors.As(err, &refused); {
		case ctx.Err() != nil:
			return nil, err
		case limited && refused.Status == http.StatusTooManyRequests:
			wait = max(refused.RetryAfter, firstPause)
			if waited += wait; waited > maxRateWait {
				return nil, err
			}
			if c.Waiting != nil {
				c.Waiting(wait)
			}
		case limited && refused.Code == "M_UNKNOWN_TOKEN" && refused.SoftLogout && token != "" && !renewed:
			if failed := c.renew(ctx, token); errors.As(failed, &refused) && !Temporary(failed) {
				return nil, err // the session has ended
			} else if failed != nil {
				return nil, failed
			}
			renewed = true
			continue
		case attempt < attempts && repeatable(what.method) && transient(err):
			attempt++
			wait, pause = pause, pause*2
		default:
			return nil, err
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// repeatable calls have the same effect however often they arrive: PUTs carry transaction identifiers.
func repeatable(method string) bool { return method == http.MethodGet || method == http.MethodPut }

func transient(err error) bool {
	var refused *Error
	if errors.As(err, &refused) {
		return refused.Status == http.StatusBadGateway || refused.Status == http.StatusServiceUnavailable ||
			refused.Status == http.StatusGatewayTimeout
	}
	return Unreachable(err)
}

func (c *Client) once(ctx context.Context, what call, payload []byte, token string) ([]byte, error) {
	timeout := what.timeout
	if timeout == 0 {
		timeout = requestTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, err := c.open(ctx, what, payload, token)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	return readAll(answer.Body, what.limit)
}

// open sends the call once; the caller closes the body of the answer, whose status is 2xx.
func (c *Client) open(ctx context.Context, what call, payload []byte, token string) (*http.Response, error) {
	target := strings.TrimSuffix(c.Base, "/") + what.path
	if len(what.query) > 0 {
		target += "?" + what.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, what.method, target, bytes.NewReader(payload))
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	if what.kind != "" {
		req.Header.Set("Content-Type", what.kind)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	carrier := c.HTTP
	if carrier == nil {
		carrier = http.DefaultClient
	}
	answer, err := carrier.Do(req)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) {
			failed.URL, _, _ = strings.Cut(failed.URL, "?") // a filter has hundreds of characters that tell nobody anything
		}
		return nil, err
	}
	if answer.StatusCode/100 != 2 {
		defer answer.Body.Close()
		return nil, decodeError(answer)
	}
	return answer, nil
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w (%d bytes)", ErrTooLarge, limit)
	}
	return data, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// NewTxnID makes a transaction identifier that no other request of any session has.
func NewTxnID() string { return rand.Text() }

// path joins escaped segments: path("/_matrix/client/v3/rooms/%s/join", room).
func path(format string, segments ...string) string {
	escaped := make([]any, len(segments))
	for i, s := range segments {
		escaped[i] = url.PathEscape(s)
	}
	return fmt.Sprintf(format, escaped...)
}
