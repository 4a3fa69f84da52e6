package homeserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/media"
)

// remoteMedia fetches media over the federation, in the words of package media.
type remoteMedia struct{ client *client.Client }

func (r remoteMedia) Download(ctx context.Context, server id.ServerName, mediaID string, limit int64) (*media.RemoteFile, error) {
	m, err := r.client.Download(ctx, server, mediaID, limit)
	if err != nil {
		return nil, mediaError(err)
	}
	return &media.RemoteFile{ContentType: m.ContentType, ContentDisposition: m.ContentDisposition, Body: remoteBody{m.Body}}, nil
}

func mediaError(err error) error {
	var answer *client.Error
	switch {
	case errors.Is(err, client.ErrTooLarge), errors.As(err, &answer) && answer.Code == "M_TOO_LARGE":
		return media.ErrRemoteTooLarge
	case answer != nil && answer.Code == "M_NOT_YET_UPLOADED":
		return media.ErrNotYetUploaded
	case answer != nil && answer.Status == http.StatusNotFound:
		return fmt.Errorf("%w on %s", media.ErrNotFound, answer.Server)
	}
	return err
}

type remoteBody struct{ io.ReadCloser }

func (b remoteBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, client.ErrTooLarge) {
		err = media.ErrRemoteTooLarge
	}
	return n, err
}
