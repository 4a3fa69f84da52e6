package clientapi

import "time"

func (a *API) typingRoutes() []route {
	return []route{
		{PUT, "/v3/rooms/:roomId/typing/:userId", user, none, a.setTyping},
	}
}

// maxTypingTimeout is a limit of numbers only: package ephemeral has its own.
const maxTypingTimeout = int64(time.Hour / time.Millisecond)

func (a *API) setTyping(c *call) (any, error) {
	u, err := c.ownUserID()
	if err != nil {
		return nil, err
	}
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	var body struct {
		Typing  bool  `json:"typing"`
		Timeout int64 `json:"timeout"`
	}
	if err := c.decodeUpTo(maxSmallBody, &body); err != nil {
		return nil, err
	}
	timeout := time.Duration(min(max(body.Timeout, 0), maxTypingTimeout)) * time.Millisecond
	return nil, a.Ephemeral.SetTyping(c.Request().Context(), roomID, u, body.Typing, timeout)
}
