package federation

import (
	"errors"
	"net/http"
	"time"

	"github.com/securecomm/securecomm/homeserver/media"
)

func (a *API) mediaRoutes() []route {
	return []route{
		{GET, "/v1/media/download/:mediaId", signed, none, a.download},
		{GET, "/v1/media/thumbnail/:mediaId", signed, none, a.thumbnail},
	}
}

// maxWait is how long another server may have us wait for an upload.
const maxWait = time.Minute

func (c *call) wait() (time.Duration, error) {
	ms, err := c.intQuery("timeout_ms", media.DefaultWait.Milliseconds())
	return min(maxWait, time.Duration(min(ms, maxWait.Milliseconds()))*time.Millisecond), err
}

func (a *API) download(c *call) (any, error) {
	wait, err := c.wait()
	if err != nil {
		return nil, err
	}
	content, err := a.Media.ForServer(c.Request().Context(), c.path("mediaId"), wait)
	return nil, c.parts(content, err)
}

func (a *API) thumbnail(c *call) (any, error) {
	wait, err := c.wait()
	if err != nil {
		return nil, err
	}
	width, widthErr := c.intQuery("width", 0)
	height, heightErr := c.intQuery("height", 0)
	if err := errors.Join(widthErr, heightErr); err != nil {
		return nil, err
	}
	if width == 0 || height == 0 {
		return nil, fail(http.StatusBadRequest, "M_MISSING_PARAM", "width and height are needed")
	}
	size := media.Size{Width: int(min(width, maxSide)), Height: int(min(height, maxSide)), Crop: c.query("method") == "crop"}
	content, err := a.Media.ThumbnailForServer(c.Request().Context(), c.path("mediaId"), wait, size)
	return nil, c.parts(content, err)
}

// maxSide is the largest width or height that is told apart.
const maxSide = 1 << 14

// parts answers with content as multipart/mixed.
func (c *call) parts(content *media.Content, err error) error {
	if err != nil {
		return err
	}
	defer content.Close()
	m := media.NewMultipart(c.Response(), content)
	c.Response().Header().Set("Content-Type", m.ContentType())
	c.Response().WriteHeader(http.StatusOK)
	if m.Write() != nil {
		// It can't be told any more but by ending the connection before its time.
		panic(http.ErrAbortHandler)
	}
	return nil
}
