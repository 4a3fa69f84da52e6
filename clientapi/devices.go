package clientapi

import (
	"net/http"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

func (a *API) deviceRoutes() []route {
	return []route{
		{GET, "/v3/devices", user, none, a.devices},
		{GET, "/v3/devices/:deviceId", user, none, a.device},
		{PUT, "/v3/devices/:deviceId", user, none, a.renameDevice},
		{DELETE, "/v3/devices/:deviceId", user, limitConfirm, a.deleteDevice},
		{POST, "/v3/delete_devices", user, limitConfirm, a.deleteDevices},
	}
}

// deviceAnswer is a device as its user sees it. What is not known is null: there are clients that take no answer without it.
type deviceAnswer struct {
	ID          id.DeviceID `json:"device_id"`
	User        id.UserID   `json:"user_id"`
	DisplayName *string     `json:"display_name"`
	SeenAddress *string     `json:"last_seen_ip"`
	SeenAt      *int64      `json:"last_seen_ts"`
}

func describeDevice(d store.Device) deviceAnswer {
	return deviceAnswer{ID: d.ID, User: d.User, DisplayName: known(d.DisplayName), SeenAddress: known(d.SeenAddress), SeenAt: known(d.SeenAt)}
}

// known is a value for JSON, where what is empty is null.
func known[T comparable](value T) *T {
	var none T
	if value == none {
		return nil
	}
	return &value
}

func (a *API) devices(c *call) (any, error) {
	devices, err := a.Account.Devices(c.Request().Context(), c.Requester.User)
	if err != nil {
		return nil, err
	}
	out := make([]deviceAnswer, len(devices))
	for i, d := range devices {
		out[i] = describeDevice(d)
	}
	return map[string]any{"devices": out}, nil
}

func (a *API) device(c *call) (any, error) {
	d, err := a.Account.Device(c.Request().Context(), c.Requester.User, id.DeviceID(c.path("deviceId")))
	if err != nil {
		return nil, err
	}
	return describeDevice(d), nil
}

func (a *API) renameDevice(c *call) (any, error) {
	var in struct {
		Name *string `json:"display_name"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	device := id.DeviceID(c.path("deviceId"))
	if in.Name == nil {
		_, err := a.Account.Device(c.Request().Context(), c.Requester.User, device)
		return nil, err
	}
	return nil, a.Account.RenameDevice(c.Request().Context(), c.Requester.User, device, *in.Name)
}

func (a *API) deleteDevice(c *call) (any, error) {
	operation := "delete device " + c.path("deviceId")
	auth, err := a.decodeConfirmed(c, operation, &struct{}{})
	if err != nil {
		return nil, err
	}
	if err := a.Account.Confirm(c.Request().Context(), c.Requester, operation, auth); err != nil {
		return nil, err
	}
	return nil, a.Account.DeleteDevices(c.Request().Context(), c.Requester.User, id.DeviceID(c.path("deviceId")))
}

const maxDeletedDevices = 1000

func (a *API) deleteDevices(c *call) (any, error) {
	var in struct {
		Devices []id.DeviceID `json:"devices"`
	}
	const operation = "delete devices"
	auth, err := a.decodeConfirmed(c, operation, &in)
	if err != nil {
		return nil, err
	}
	if in.Devices == nil {
		return nil, missing("devices")
	}
	if len(in.Devices) > maxDeletedDevices {
		return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "too many devices at once")
	}
	if err := a.Account.Confirm(c.Request().Context(), c.Requester, operation, auth); err != nil {
		return nil, err
	}
	return nil, a.Account.DeleteDevices(c.Request().Context(), c.Requester.User, in.Devices...)
}
