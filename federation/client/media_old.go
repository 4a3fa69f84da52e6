package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/securecomm/securecomm/homeserver/id"
)

// lacksEndpoint says whether an error means that the other server does not know the endpoint, rather than the media.
// Servers from before version 1.11 of the specification know only the one without signatures.
func lacksEndpoint(err error) bool {
	var answer *Error
	if !errors.As(err, &answer) || answer.Code != "" && answer.Code != "M_UNRECOGNIZED" {
		return false
	}
	return answer.Status == http.StatusNotFound || answer.Status == http.StatusMethodNotAllowed || answer.Status == http.StatusBadRequest
}

// downloadUnsigned fetches media as anyone may.
func (c *Client) downloadUnsigned(ctx context.Context, to id.ServerName, mediaID string, limit int64) (*Media, error) {
	if !validMediaID(mediaID) {
		return nil, fmt.Errorf("fetching media of %s: %w: not a media ID", to, id.ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(ctx, timeoutMedia)
	request := get(limit, join("/_matrix/media/v3/download", string(to), mediaID), url.Values{"allow_remote": {"false"}})
	request.unsigned = true
	response, err := c.open(ctx, to, request)
	if err != nil {
		cancel()
		return nil, err
	}
	closer := func() error {
		defer cancel()
		return response.Body.Close()
	}
	return newMedia(response.Header, response.Body, closer, limit), nil
}
