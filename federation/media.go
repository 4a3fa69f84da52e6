package federation

import (
	"errors"

	"github.com/securecomm/securecomm/homeserver/media"
)

func (a *API) mediaRoutes() []route {
	return []route{
		{GET, "/v1/media/download/:mediaId", signed, none, a.media(false)},
		{GET, "/v1/media/thumbnail/:mediaId", signed, none, a.media(true)},
	}
}

func (a *API) media(thumbnail bool) func(*call) (any, error) {
	return func(c *call) (any, error) {
		if a.Media == nil {
			return nil, errUnrecognized
		}
		err := a.Media.ServeFederation(c.Response(), c.Request(), c.Origin, c.path("mediaId"), thumbnail)
		if errors.Is(err, media.ErrCrowded) {
			err = tooBusy()
		}
		return nil, err
	}
}
