package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// mediaTimeout bounds one transfer of a file.
const mediaTimeout = 15 * time.Minute

// Upload stores data on the server and answers its mxc URI. name may be empty.
func (c *Client) Upload(ctx context.Context, data []byte, contentType, name string) (string, error) {
	query := url.Values{}
	if name != "" {
		query.Set("filename", name)
	}
	var out struct {
		URI string `json:"content_uri"`
	}
	err := c.do(ctx, call{method: http.MethodPost, path: "/_matrix/media/v3/upload", query: query,
		raw: func() []byte { return data }, kind: contentType, timeout: mediaTimeout}, &out)
	if err == nil && !strings.HasPrefix(out.URI, "mxc://") {
		return "", errors.New("the server did not say where the file is")
	}
	return out.URI, err
}

// Download reads what an mxc URI names, at most limit bytes of it.
func (c *Client) Download(ctx context.Context, uri string, limit int64) ([]byte, error) {
	server, media, err := ParseMXC(uri)
	if err != nil {
		return nil, err
	}
	what := call{method: http.MethodGet, path: path("/_matrix/client/v1/media/download/%s/%s", string(server), media), limit: limit, timeout: mediaTimeout}
	data, err := c.persist(ctx, what, nil)
	var refused *Error
	if errors.As(err, &refused) && refused.Code == "M_UNRECOGNIZED" {
		// Servers before version 1.11 of the specification have only the old path.
		what.path = path("/_matrix/media/v3/download/%s/%s", string(server), media)
		data, err = c.persist(ctx, what, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("downloading %s: %w", uri, err)
	}
	return data, nil
}

// ParseMXC splits an mxc URI into the server and the name of the media.
func ParseMXC(uri string) (id.ServerName, string, error) {
	rest, ok := strings.CutPrefix(uri, "mxc://")
	server, media, found := strings.Cut(rest, "/")
	name, err := id.ParseServerName(server)
	if !ok || !found || err != nil || media == "" || strings.ContainsAny(media, "/?#\\. ") {
		return "", "", fmt.Errorf("%q is no mxc URI", printable(uri))
	}
	return name, media, nil
}
