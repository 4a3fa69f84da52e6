package clientapi

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/media"
)

func (a *API) mediaRoutes() []route {
	routes := []route{
		{POST, "/_matrix/media/v1/create", user, limitMedia, a.createMedia},
		{GET, "/v1/media/config", user, none, a.mediaConfig},
		{GET, "/v1/media/preview_url", user, limitMedia, a.previewURL},
		{GET, "/v1/media/download/:serverName/:mediaId", user, limitDownload, a.download},
		{GET, "/v1/media/download/:serverName/:mediaId/:fileName", user, limitDownload, a.download},
		{GET, "/v1/media/thumbnail/:serverName/:mediaId", user, limitDownload, a.thumbnail},
	}
	// The deprecated paths, with the names that they had before version 1.1 of the specification. Who gives a token can do
	// there what the newer ones do; who does not is a stranger.
	for _, old := range []string{"/_matrix/media/v3", "/_matrix/media/r0", "/_matrix/media/v1"} {
		routes = append(routes,
			route{POST, old + "/upload", user, limitMedia, a.upload},
			route{PUT, old + "/upload/:serverName/:mediaId", user, limitMedia, a.uploadLater},
			route{GET, old + "/config", user, none, a.mediaConfig},
			route{GET, old + "/preview_url", user, limitMedia, a.previewURL},
			route{GET, old + "/download/:serverName/:mediaId", optional, limitDownload, a.download},
			route{GET, old + "/download/:serverName/:mediaId/:fileName", optional, limitDownload, a.download},
			route{GET, old + "/thumbnail/:serverName/:mediaId", optional, limitDownload, a.thumbnail},
		)
	}
	return routes
}

func (a *API) uploadOf(c *call) media.Upload {
	r := c.Request()
	body := &arriving{Reader: r.Body, control: http.NewResponseController(c.Response()), began: time.Now()}
	return media.Upload{
		User: c.Requester.User, ContentType: r.Header.Get("Content-Type"), Name: c.query("filename"), Size: r.ContentLength,
		Body: body, Cut: body.cut,
	}
}

// Uploads may take as long as they keep coming.
const (
	uploadPause   = time.Minute // without a single byte
	uploadSlowest = 4 << 10     // bytes a second on average, after the first uploadPause
)

// arriving is the body of an upload, which ends with an error if it comes too slowly.
type arriving struct {
	io.Reader
	control *http.ResponseController
	began   time.Time
	got     int64

	mu  sync.Mutex
	end bool // nothing more is waited for
}

// cut ends a wait for more of the body, now and later.
func (b *arriving) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end = true
	_ = b.control.SetReadDeadline(time.Unix(1, 0)) // tests have no connection
}

// until sets the deadline for what comes next, unless the wait was ended.
func (b *arriving) until(deadline time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.end {
		_ = b.control.SetReadDeadline(deadline) // tests have no connection
	}
}

func (b *arriving) Read(p []byte) (int, error) {
	deadline := time.Now().Add(uploadPause)
	if slowest := b.began.Add(uploadPause + time.Duration(b.got/uploadSlowest)*time.Second); slowest.Before(deadline) {
		deadline = slowest
	}
	b.until(deadline)
	n, err := b.Reader.Read(p)
	b.got += int64(n)
	switch {
	case errors.Is(err, io.EOF):
		b.until(time.Time{})
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fail(http.StatusRequestTimeout, "M_UNKNOWN", "the upload came too slowly")
	}
	return n, err
}

func (a *API) upload(c *call) (any, error) {
	mediaID, err := a.Media.Save(c.Request().Context(), a.uploadOf(c))
	if err != nil {
		return nil, err
	}
	return map[string]any{"content_uri": a.contentURI(mediaID)}, nil
}

func (a *API) contentURI(mediaID string) string { return "mxc://" + string(a.Server) + "/" + mediaID }

func (a *API) createMedia(c *call) (any, error) {
	mediaID, expires, err := a.Media.Reserve(c.Request().Context(), c.Requester.User)
	if err != nil {
		return nil, err
	}
	return map[string]any{"content_uri": a.contentURI(mediaID), "unused_expires_at": expires.UnixMilli()}, nil
}

func (a *API) uploadLater(c *call) (any, error) {
	if c.path("serverName") != string(a.Server) {
		return nil, media.ErrNotFound
	}
	return nil, a.Media.Fill(c.Request().Context(), c.path("mediaId"), a.uploadOf(c))
}

func (a *API) mediaConfig(*call) (any, error) {
	return map[string]any{"m.upload.size": a.Media.MaxUpload}, nil
}

func (a *API) previewURL(c *call) (any, error) {
	address := c.query("url")
	if address == "" {
		return nil, missing("url")
	}
	p, err := a.Media.Preview(c.Request().Context(), c.Requester.User, address)
	if err != nil {
		return nil, err
	}
	return p.Properties, nil
}

// wantedMedia is the media named in the path.
func (c *call) wantedMedia() (media.Wanted, error) {
	origin, err := id.ParseServerName(c.path("serverName"))
	if err != nil {
		return media.Wanted{}, err
	}
	remote, err := c.boolQuery("allow_remote", true)
	if err != nil {
		return media.Wanted{}, err
	}
	wait, err := c.intQuery("timeout_ms", int(media.DefaultWait.Milliseconds()), int(time.Minute.Milliseconds()))
	return media.Wanted{
		Origin: origin, ID: c.path("mediaId"), Wait: time.Duration(wait) * time.Millisecond, LocalOnly: !remote,
		User: c.Requester.User, Stranger: c.Requester.User == "", Address: network(c.RealIP()),
	}, err
}

func (a *API) download(c *call) (any, error) {
	w, err := c.wantedMedia()
	if err != nil {
		return nil, err
	}
	content, err := a.Media.Open(c.Request().Context(), w)
	if err != nil {
		return nil, err
	}
	return nil, a.send(c, w, content, c.path("fileName"))
}

func (a *API) thumbnail(c *call) (any, error) {
	w, err := c.wantedMedia()
	if err != nil {
		return nil, err
	}
	method := c.query("method")
	if method != "" && method != "crop" && method != "scale" {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "method must be crop or scale")
	}
	animated, err := c.boolQuery("animated", false)
	if err != nil {
		return nil, err
	}
	size := media.Size{Crop: method == "crop", Animated: animated}
	for name, into := range map[string]*int{"width": &size.Width, "height": &size.Height} {
		if c.query(name) == "" {
			return nil, missing(name)
		}
		if *into, err = c.intQuery(name, 0, 1<<16); err != nil {
			return nil, err
		}
		if *into == 0 {
			return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", name+" must be greater than 0")
		}
	}
	content, err := a.Media.Thumbnail(c.Request().Context(), w, size)
	if err != nil {
		return nil, err
	}
	return nil, a.send(c, w, content, "")
}

// mediaPolicy is what the specification recommends, so that no browser runs anything that it finds in media.
const mediaPolicy = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';"

// send answers with content that is wanted, or with the ranges of it that were asked for, and closes it.
func (a *API) send(c *call, w media.Wanted, content *media.Content, name string) error {
	defer func() { _ = content.Close() }()
	body, leave, err := a.Media.Enter(c.Response(), c.Request(), w, content)
	if err != nil {
		return err
	}
	defer leave()
	h := c.Response().Header()
	h.Set("Content-Type", content.ContentType)
	h.Set("Content-Disposition", content.Disposition(name))
	h.Set("Content-Security-Policy", mediaPolicy)
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "private, max-age=86400, immutable")
	h.Set("ETag", `"`+content.Hash+`"`)
	http.ServeContent(c.Response(), c.Request(), "", time.Time{}, body)
	return nil
}
