package clientapi

import (
	"github.com/securecomm/securecomm/homeserver/keys"
)

func (a *API) toDeviceRoutes() []route {
	return []route{
		{PUT, "/v3/sendToDevice/:eventType/:txnId", user, limitMessage, a.sendToDevice},
	}
}

func (a *API) sendToDevice(c *call) (any, error) {
	var in struct {
		Messages keys.Messages `json:"messages"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if in.Messages == nil {
		return nil, missing("messages")
	}
	if len(c.path("txnId")) > maxTxnID {
		return nil, errTxnID
	}
	return nil, a.Keys.SendToDevice(c.Request().Context(), keys.ToDevice{
		Sender: c.Requester.User, Device: c.Requester.Device,
		Type: c.path("eventType"), TxnID: c.path("txnId"), Messages: in.Messages,
	})
}
