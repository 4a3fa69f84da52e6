package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/securecomm/securecomm/federation/xmatrix"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
)

const (
	// Limits of response bodies, in bytes.
	limitSmall  = 1 << 20
	limitLists  = 16 << 20  // keys, room lists, pages of history
	limitIDs    = 24 << 20  // the state of a room by names of events
	limitStates = 256 << 20 // whole states of rooms

	timeoutShort = 30 * time.Second
	timeoutLong  = 5 * time.Minute // what may make the other server compute a room's state

	federation1 = "/_matrix/federation/v1"
	federation2 = "/_matrix/federation/v2"
)

// call is one request to another server. Method, path and limit are always set.
type call struct {
	method string
	path   string // escaped
	query  url.Values
	body   []byte // JSON; nil for none
	// unsigned leaves the signature away, where the specification asks for none.
	unsigned bool
	// once forbids a second attempt on a new connection if a kept one turns out to be closed.
	once    bool
	limit   int64
	counted bool          // towards maxDecoding, also if limit is none of a large answer
	timeout time.Duration // timeoutShort if zero
}

func get(limit int64, path string, query url.Values) call {
	return call{method: http.MethodGet, path: path, query: query, limit: limit}
}

func send(method string, limit int64, path string, body any) (call, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return call{}, fmt.Errorf("encoding the body of %s %s: %w", method, path, err)
	}
	return call{method: method, path: path, body: raw, limit: limit}, nil
}

// join makes an escaped path.
func join(prefix string, parts ...string) string {
	for _, part := range parts {
		prefix += "/" + url.PathEscape(part)
	}
	return prefix
}

// sendJSON is do with a body to encode.
func (c *Client) sendJSON(ctx context.Context, to id.ServerName, method string, limit int64, path string, body, into any) error {
	request, err := send(method, limit, path, body)
	if err != nil {
		return err
	}
	return c.do(ctx, to, request, into)
}

// do makes a call and decodes the answer; into may be nil if the answer says nothing.
func (c *Client) do(ctx context.Context, to id.ServerName, request call, into any) error {
	return c.read(ctx, to, request, func(answer *answer) error {
		body, err := io.ReadAll(answer)
		if err != nil || into == nil {
			return err
		}
		if tooMany(body) {
			return fmt.Errorf("%w: more than %d values", ErrTooLarge, maxValues)
		}
		if err := json.Unmarshal(body, into); err != nil {
			return malformed(to, request.path, err)
		}
		return nil
	})
}

// read makes a call and has the answer decoded while it comes in.
func (c *Client) read(ctx context.Context, to id.ServerName, request call, decode func(*answer) error) error {
	timeout := request.timeout
	if timeout == 0 {
		timeout = timeoutShort
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	response, err := c.open(ctx, to, request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	paced := c.paced(response.Body, cancel)
	defer paced.stop()
	body := &answer{Reader: paced, body: paced, server: to, client: c, limit: request.limit, until: request.limit + 1, counted: request.counted || request.limit > limitLists}
	hold := load.HoldOf(ctx)
	if hold != nil {
		body.who = hold.Who
	}
	if err := decode(body); err != nil {
		body.done()
		return fmt.Errorf("reading what %s answers to %s %s: %w", to, request.method, request.path, err)
	}
	if hold != nil && body.counted {
		c.decoding.hold(body, hold)
	} else {
		body.done()
	}
	if c.Answered != nil {
		c.Answered(to)
	}
	return nil
}

// open makes a call and returns the response of a success, whose body the caller must close.
func (c *Client) open(ctx context.Context, to id.ServerName, request call) (*http.Response, error) {
	if to == c.Server {
		return nil, fmt.Errorf("%s %s: %w", request.method, request.path, ErrSelf)
	}
	c.start()
	req, err := c.request(ctx, to, request)
	if err != nil {
		return nil, fmt.Errorf("calling %s: %w", to, err)
	}
	// Not http.Client: a redirect would send the signed request to someone else.
	response, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("calling %s: %s %s: %w", to, request.method, request.path, err)
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		defer func() { _ = response.Body.Close() }()
		return nil, readError(to, response)
	}
	return response, nil
}

func (c *Client) request(ctx context.Context, to id.ServerName, request call) (*http.Request, error) {
	target, err := c.Resolver.Resolve(ctx, to)
	if err != nil {
		return nil, err
	}
	address := "https://" + poolKey(to) + request.path
	if len(request.query) > 0 {
		address += "?" + request.query.Encode()
	}
	var body io.Reader
	if request.body != nil {
		body = bytes.NewReader(request.body)
	}
	req, err := http.NewRequestWithContext(ctx, request.method, address, body)
	if err != nil {
		return nil, err
	}
	req.Host = target.Host
	req.Header.Set("User-Agent", c.UserAgent) // an empty one is not sent
	if request.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if !request.once {
		req.Header["Idempotency-Key"] = nil // not sent; tells http.Transport that it may send again
	}
	if request.unsigned {
		return req, nil
	}
	signed := xmatrix.Request{Method: request.method, URI: req.URL.RequestURI(), Content: request.body}
	authorization, err := xmatrix.Sign(signed, c.Server, to, c.Key)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", authorization)
	return req, nil
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return body, nil
}

func malformed(to id.ServerName, path string, err error) error {
	return fmt.Errorf("%w: %s to %s: %w", ErrMalformed, to, path, err)
}

// only keeps the names of a list that are well-formed: one bad entry shall not cost the others.
func only[T ~string](list []T, parse func(string) (T, error)) []T {
	kept := list[:0]
	for _, name := range list {
		if parsed, err := parse(string(name)); err == nil {
			kept = append(kept, parsed)
		}
	}
	return kept
}

func checkRedirect(next *http.Request, before []*http.Request) error {
	if len(before) > 3 {
		return errors.New("more than 3 redirects")
	}
	if next.URL.Scheme != "https" {
		return errors.New("redirected away from HTTPS")
	}
	return nil
}
