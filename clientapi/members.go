package clientapi

import (
	"net/http"

	"github.com/securecomm/securecomm/homeserver/timeline"
)

// memberRoutes list the members of rooms.
func (a *API) memberRoutes() []route {
	return []route{
		{GET, "/v3/rooms/:roomId/members", user, none, gathers(&a.rooms, a.members)},
		{GET, "/v3/rooms/:roomId/joined_members", user, none, gathers(&a.rooms, a.joinedMembers)},
	}
}

func (a *API) members(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	q := timeline.MemberQuery{At: c.query("at"), Membership: c.query("membership"), Not: c.query("not_membership")}
	for name, value := range map[string]string{"membership": q.Membership, "not_membership": q.Not} {
		switch value {
		case "", "join", "invite", "leave", "ban", "knock":
		default:
			return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", name+" must be join, invite, leave, ban or knock")
		}
	}
	return a.inPieces(c, `{"chunk":[`, "]}", func(w *pieces) error {
		return a.Timeline.Members(c.Request().Context(), roomID, c.reader(), q, w.items)
	})
}

func (a *API) joinedMembers(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	return a.inPieces(c, `{"joined":{`, "}}", func(w *pieces) error {
		return a.Timeline.JoinedMembers(c.Request().Context(), roomID, c.reader(), w.member)
	})
}
