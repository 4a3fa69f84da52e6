package clientapi

import (
	"github.com/securecomm/securecomm/homeserver/keys"
)

func (a *API) toDeviceRoutes() []route {
	return []route{
		{PUT, "/v3/sendToDevice/:eventType/:txnId", user, limitMessage, a.sendToDevice},
	}
}

const (
	// sendsInLine is how many messages to devices of a user may wait for the one before.
	sendsInLine = 32
	// serversPerCall is how many other servers a call may name; as many more count as another one.
	serversPerCall = 25
)

func (a *API) sendToDevice(c *call) (any, error) {
	var in struct {
		Messages keys.Messages `json:"messages"`
	}
	c.counts = nil // inboxes have limits of their own
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if in.Messages == nil {
		return nil, missing("messages")
	}
	if len(c.path("txnId")) > maxTxnID {
		return nil, errTxnID
	}
	if err := a.limiter.checkMore(limitMessage, c, in.Messages.Servers(a.Server)/serversPerCall); err != nil {
		return nil, err
	}
	leave, err := a.sends.await(c.Request().Context(), c.Requester.User, 1)
	if err != nil {
		return nil, err
	}
	defer leave()
	return nil, a.Keys.SendToDevice(c.Request().Context(), keys.ToDevice{
		Sender: c.Requester.User, Device: c.Requester.Device,
		Type: c.path("eventType"), TxnID: c.path("txnId"), Messages: in.Messages,
	})
}
