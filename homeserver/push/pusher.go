package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/securecomm/securecomm/homeserver/canonicaljson"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Limits of pushers (Client-Server API, "POST /pushers/set").
const (
	maxAppID   = 64
	maxPushKey = 512
	maxText    = 1024
	maxData    = 16 << 10
	maxPushers = 100 // of a user
)

// gatewayPath is the one path that notifications are sent to.
const gatewayPath = "/_matrix/push/v1/notify"

// Pusher is where notifications go to, as clients see it.
type Pusher struct {
	Kind              string          `json:"kind"`
	AppID             string          `json:"app_id"`
	PushKey           string          `json:"pushkey"`
	AppDisplayName    string          `json:"app_display_name"`
	DeviceDisplayName string          `json:"device_display_name"`
	ProfileTag        string          `json:"profile_tag,omitempty"`
	Lang              string          `json:"lang"`
	Data              json.RawMessage `json:"data"`
}

// ErrBadPusher means that a pusher does not have the form that its kind needs.
var ErrBadPusher = errors.New("not a valid pusher")

// Pushers lists the pushers of a user.
func (s *Service) Pushers(ctx context.Context, user id.UserID) ([]json.RawMessage, error) {
	list := []json.RawMessage{}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Pushers.ByUser(user)
		for _, row := range rows {
			list = append(list, row.Content)
		}
		return err
	})
	return list, err
}

// SetPusher adds or replaces a pusher of a user, which lasts as long as the device. Unless others may
// have it as well, the same app is no longer a pusher of other users.
func (s *Service) SetPusher(ctx context.Context, user id.UserID, device id.DeviceID, p Pusher, othersToo bool) error {
	if err := p.check(); err != nil {
		return err
	}
	content, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode a pusher: %w", err)
	}
	row := store.Pusher{User: user, AppID: p.AppID, PushKey: p.PushKey, Device: device, Content: content}
	return s.Store.Update(ctx, func(tx *store.Tx) error {
		if !othersToo {
			if err := tx.Pushers.DeleteOthers(user, p.AppID, p.PushKey); err != nil {
				return err
			}
		}
		if err := tx.Pushers.Set(row, time.Now()); err != nil {
			return err
		}
		list, err := tx.Pushers.ByUser(user)
		if err == nil && len(list) > maxPushers {
			err = fmt.Errorf("%w: no more than %d can be kept", ErrBadPusher, maxPushers)
		}
		return err
	})
}

// DeletePusher removes a pusher of a user, if there is one.
func (s *Service) DeletePusher(ctx context.Context, user id.UserID, appID, pushKey string) error {
	return s.Store.Update(ctx, func(tx *store.Tx) error { return tx.Pushers.Delete(user, appID, pushKey) })
}

func (p *Pusher) check() error {
	switch {
	case p.AppID == "" || len(p.AppID) > maxAppID:
		return fmt.Errorf("%w: app_id must have 1 to %d bytes", ErrBadPusher, maxAppID)
	case p.PushKey == "" || len(p.PushKey) > maxPushKey:
		return fmt.Errorf("%w: pushkey must have 1 to %d bytes", ErrBadPusher, maxPushKey)
	case len(p.AppDisplayName)+len(p.DeviceDisplayName)+len(p.ProfileTag)+len(p.Lang) > maxText:
		return fmt.Errorf("%w: its names are too long", ErrBadPusher)
	case len(p.Data) > maxData:
		return fmt.Errorf("%w: its data is larger than %d bytes", ErrBadPusher, maxData)
	case p.Kind != "http":
		return fmt.Errorf("%w: this server has pushers of kind http only", ErrBadPusher)
	}
	if _, err := canonicaljson.CanonicalizeLenient(p.Data); err != nil {
		return fmt.Errorf("%w: data: %w", ErrBadPusher, err)
	}
	var data struct {
		URL string `json:"url"`
	}
	if err := json.Unmarshal(p.Data, &data); err != nil {
		return fmt.Errorf("%w: its data is not an object with a url", ErrBadPusher)
	}
	gateway, err := url.Parse(data.URL)
	if err != nil || gateway.Scheme != "https" || gateway.Host == "" || gateway.Path != gatewayPath {
		return fmt.Errorf("%w: data.url must be an https address with the path %s", ErrBadPusher, gatewayPath)
	}
	return nil
}
