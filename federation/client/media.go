package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// timeoutMedia bounds a whole download.
const timeoutMedia = 10 * time.Minute

// maxMediaID is the longest media ID, in bytes.
const maxMediaID = 255

// Media is a piece of media of another server while it arrives. Its headers are the other server's words.
type Media struct {
	ContentType        string
	ContentDisposition string
	// Body ends in ErrTooLarge if there is more than was allowed. It must be closed.
	Body io.ReadCloser
}

// Thumbnail is the size and kind of thumbnail wanted.
type Thumbnail struct {
	Width, Height int
	Method        string // "crop", "scale" or empty
	Animated      bool
}

// Download fetches media of another server, at most limit bytes. It waits for media that is still to be
// uploaded for as long as the other server thinks fit. Old servers are asked as they expect it.
func (c *Client) Download(ctx context.Context, to id.ServerName, mediaID string, limit int64) (*Media, error) {
	m, err := c.media(ctx, to, "download", mediaID, nil, limit)
	if lacksEndpoint(err) {
		return c.downloadUnsigned(ctx, to, mediaID, limit)
	}
	return m, err
}

// Thumbnail fetches a thumbnail of media of another server, at most limit bytes.
func (c *Client) Thumbnail(ctx context.Context, to id.ServerName, mediaID string, t Thumbnail, limit int64) (*Media, error) {
	query := url.Values{"width": {strconv.Itoa(t.Width)}, "height": {strconv.Itoa(t.Height)}}
	if t.Method != "" {
		query.Set("method", t.Method)
	}
	if t.Animated {
		query.Set("animated", "true")
	}
	return c.media(ctx, to, "thumbnail", mediaID, query, limit)
}

func (c *Client) media(ctx context.Context, to id.ServerName, kind, mediaID string, query url.Values, limit int64) (*Media, error) {
	if !validMediaID(mediaID) {
		return nil, fmt.Errorf("fetching media of %s: %w: not a media ID", to, id.ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(ctx, timeoutMedia)
	path := join(federation1+"/media", kind, mediaID)
	response, err := c.open(ctx, to, get(limit, path, query))
	if err != nil {
		cancel()
		return nil, err
	}
	paced := c.paced(response.Body, cancel)
	closer := func() error {
		defer cancel()
		paced.stop()
		return response.Body.Close()
	}
	content, err := secondPart(response, paced)
	if err != nil {
		return nil, errors.Join(malformed(to, path, err), closer())
	}
	location := content.Header.Get("Location")
	if location == "" {
		return newMedia(http.Header(content.Header), content, closer, limit), nil
	}
	paced.stop()
	_ = response.Body.Close() // its rest says nothing more
	media, err := c.follow(ctx, cancel, location, limit)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("fetching media of %s elsewhere: %w", to, err)
	}
	return media, nil
}

// secondPart skips the metadata, which is empty so far, to the content or the place where it is.
func secondPart(response *http.Response, body io.Reader) (*multipart.Part, error) {
	kind, params, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if err != nil {
		return nil, err
	}
	if kind != "multipart/mixed" {
		return nil, fmt.Errorf("its type is %.100q", kind)
	}
	reader := multipart.NewReader(body, params["boundary"])
	metadata, err := reader.NextRawPart()
	if err != nil {
		return nil, fmt.Errorf("reading the first part: %w", err)
	}
	if _, err := readAll(metadata, limitSmall); err != nil {
		return nil, fmt.Errorf("reading the first part: %w", err)
	}
	content, err := reader.NextRawPart()
	if err != nil {
		return nil, fmt.Errorf("reading the second part: %w", err)
	}
	return content, nil
}

// follow fetches media from where the other server keeps it: anyone's machine, so no signature goes there.
func (c *Client) follow(ctx context.Context, cancel context.CancelFunc, location string, limit int64) (*Media, error) {
	at, err := url.Parse(location)
	if err != nil || at.Scheme != "https" {
		return nil, errors.New("the place is not an address of HTTPS")
	}
	at.User = nil
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", c.UserAgent)
	response, err := c.redirects.Do(request)
	var withURL *url.Error
	if errors.As(err, &withURL) {
		err = withURL.Err // the address itself may give access, so it is kept out of errors
	}
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		return nil, fmt.Errorf("status %d", response.StatusCode)
	}
	paced := c.paced(response.Body, cancel)
	closer := func() error {
		defer cancel()
		paced.stop()
		return response.Body.Close()
	}
	return newMedia(response.Header, paced, closer, limit), nil
}

func newMedia(h http.Header, body io.Reader, closer func() error, limit int64) *Media {
	return &Media{
		ContentType:        h.Get("Content-Type"),
		ContentDisposition: h.Get("Content-Disposition"),
		Body:               &boundedBody{body, closer, limit},
	}
}

// boundedBody fails where io.LimitReader would pretend that the content ends.
type boundedBody struct {
	body  io.Reader
	close func() error
	left  int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.body.Read(p)
	if int64(n) > b.left {
		n, b.left = int(b.left), 0
		return n, fmt.Errorf("reading media: %w", ErrTooLarge)
	}
	b.left -= int64(n)
	return n, err
}

func (b *boundedBody) Close() error { return b.close() }

// validMediaID allows what the specification allows, which needs no escaping.
func validMediaID(s string) bool {
	if s == "" || len(s) > maxMediaID {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
