package clientapi

import "github.com/securecomm/securecomm/homeserver/timeline"

// memberRoutes list the members of rooms.
func (a *API) memberRoutes() []route {
	return []route{
		{GET, "/v3/rooms/:roomId/members", user, none, a.members},
		{GET, "/v3/rooms/:roomId/joined_members", user, none, a.joinedMembers},
	}
}

func (a *API) members(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	chunk, err := a.Timeline.Members(c.Request().Context(), roomID, c.reader(), timeline.MemberQuery{
		At: c.query("at"), Membership: c.query("membership"), Not: c.query("not_membership"),
	})
	return map[string]any{"chunk": chunk}, err
}

func (a *API) joinedMembers(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	joined, err := a.Timeline.JoinedMembers(c.Request().Context(), roomID, c.reader())
	return map[string]any{"joined": joined}, err
}
