package clientapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
)

// membershipRoutes are Client-Server API, "Room membership" and the module "Knocking".
func (a *API) membershipRoutes() []route {
	return []route{
		{GET, "/v3/joined_rooms", user, none, a.joinedRooms},
		{POST, "/v3/rooms/:roomId/invite", user, limitJoin, a.inviteUser},
		{POST, "/v3/join/:roomIdOrAlias", user, limitJoin, a.joinRoom},
		{POST, "/v3/rooms/:roomId/join", user, limitJoin, a.joinRoom},
		{POST, "/v3/knock/:roomIdOrAlias", user, limitJoin, a.knockRoom},
		{POST, "/v3/rooms/:roomId/leave", user, limitMessage, a.leaveRoom},
		{POST, "/v3/rooms/:roomId/forget", user, none, a.forgetRoom},
		{POST, "/v3/rooms/:roomId/kick", user, limitMessage, a.kickUser},
		{POST, "/v3/rooms/:roomId/ban", user, limitMessage, a.banUser},
		{POST, "/v3/rooms/:roomId/unban", user, limitMessage, a.unbanUser},
	}
}

func (a *API) joinedRooms(c *call) (any, error) {
	rooms := []id.RoomID{}
	err := a.Store.View(c.Request().Context(), func(tx *store.Tx) error {
		list, err := tx.Memberships.ByUser(c.Requester.User, "join")
		for _, m := range list {
			rooms = append(rooms, m.RoomID)
		}
		return err
	})
	return map[string]any{"joined_rooms": rooms}, err
}

// aboutUser is the body of invite, kick, ban and unban.
type aboutUser struct {
	UserID id.UserID `json:"user_id"`
	Reason string    `json:"reason"`
	Medium string    `json:"medium"`
}

// changeOf reads a change of somebody else's membership.
func (a *API) changeOf(c *call, membership string) (room.Change, error) {
	var body aboutUser
	roomID, err := c.roomID()
	if err != nil {
		return room.Change{}, err
	}
	if err := c.decode(&body); err != nil {
		return room.Change{}, err
	}
	if body.UserID == "" && body.Medium != "" {
		return room.Change{}, fail(http.StatusForbidden, "M_THREEPID_DENIED", "this server invites nobody by e-mail or telephone")
	}
	if body.UserID == "" {
		return room.Change{}, missing("user_id")
	}
	if _, err := id.ParseUserID(string(body.UserID)); err != nil {
		return room.Change{}, err
	}
	return room.Change{Room: roomID, Sender: c.Requester.User, Target: body.UserID, Membership: membership, Reason: body.Reason}, nil
}

func (a *API) inviteUser(c *call) (any, error) {
	change, err := a.changeOf(c, "invite")
	if err != nil {
		return nil, err
	}
	return nil, a.invite(c.Request().Context(), change)
}

// invite invites a user, shown as the profile says if the user is local.
func (a *API) invite(ctx context.Context, change room.Change) error {
	if change.Target.Server() == a.Server {
		profile, err := a.profileOf(ctx, change.Target)
		if err != nil {
			return err
		}
		change.Profile = profile
	}
	return a.Rooms.Invite(ctx, change)
}

// roomInPath finds the room that the path names by ID or alias, and servers that may know it.
func (a *API) roomInPath(c *call, via []id.ServerName) (id.RoomID, []id.ServerName, error) {
	name := c.path("roomIdOrAlias")
	if name == "" {
		name = c.path("roomId")
	}
	for _, s := range append(c.queries()["via"], c.queries()["server_name"]...) {
		server, err := id.ParseServerName(s)
		if err != nil {
			return "", nil, err
		}
		via = append(via, server)
	}
	if !strings.HasPrefix(name, "#") {
		roomID, err := id.ParseRoomID(name)
		return roomID, via, err
	}
	alias, err := id.ParseRoomAlias(name)
	if err != nil {
		return "", nil, err
	}
	found, err := a.Directory.Resolve(c.Request().Context(), alias)
	return found.Room, append(via, found.Servers...), err
}

// selfChange reads a change of the requester's own membership; the body may hold further members of the content.
func (a *API) selfChange(c *call, membership string) (room.Change, error) {
	var body map[string]json.RawMessage
	if err := c.decode(&body); err != nil {
		return room.Change{}, err
	}
	change := room.Change{Sender: c.Requester.User, Target: c.Requester.User, Membership: membership}
	if raw, ok := body["reason"]; ok && json.Unmarshal(raw, &change.Reason) != nil {
		return change, fail(http.StatusBadRequest, "M_BAD_JSON", "reason must be a string")
	}
	delete(body, "third_party_signed")
	delete(body, "reason")
	if membership == "join" {
		change.Extra = body
	}
	var err error
	change.Profile, err = a.profileOf(c.Request().Context(), c.Requester.User)
	return change, err
}

func (a *API) joinRoom(c *call) (any, error) {
	change, err := a.selfChange(c, "join")
	if err != nil {
		return nil, err
	}
	if change.Room, change.Via, err = a.roomInPath(c, nil); err != nil {
		return nil, err
	}
	if err := a.Rooms.Join(c.Request().Context(), change); err != nil {
		return nil, err
	}
	return map[string]any{"room_id": change.Room}, nil
}

func (a *API) knockRoom(c *call) (any, error) {
	change, err := a.selfChange(c, "knock")
	if err != nil {
		return nil, err
	}
	if change.Room, change.Via, err = a.roomInPath(c, nil); err != nil {
		return nil, err
	}
	if err := a.Rooms.Knock(c.Request().Context(), change); err != nil {
		return nil, err
	}
	return map[string]any{"room_id": change.Room}, nil
}

func (a *API) leaveRoom(c *call) (any, error) {
	var body struct {
		Reason string `json:"reason"`
	}
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	change := room.Change{Room: roomID, Sender: c.Requester.User, Reason: body.Reason}
	return nil, a.Rooms.Leave(c.Request().Context(), change)
}

func (a *API) forgetRoom(c *call) (any, error) {
	roomID, err := c.roomID()
	if err != nil {
		return nil, err
	}
	ctx := c.Request().Context()
	membership, r, err := a.Rooms.MembershipOf(ctx, roomID, c.Requester.User)
	if err != nil {
		return nil, err
	}
	switch membership {
	case "":
		return nil, fail(http.StatusNotFound, "M_NOT_FOUND", "you have never been in this room")
	case "leave", "ban":
	default:
		return nil, fail(http.StatusBadRequest, "M_UNKNOWN", "leave the room before you forget it")
	}
	return nil, a.Store.Update(ctx, func(tx *store.Tx) error { return tx.Memberships.Forget(r.NID, c.Requester.User) })
}

func (a *API) kickUser(c *call) (any, error) {
	change, err := a.changeOf(c, "leave")
	if err != nil {
		return nil, err
	}
	change.Only = []string{"join", "invite", "knock"}
	return nil, a.Rooms.SetMembership(c.Request().Context(), change)
}

func (a *API) banUser(c *call) (any, error) {
	change, err := a.changeOf(c, "ban")
	if err != nil {
		return nil, err
	}
	return nil, a.Rooms.SetMembership(c.Request().Context(), change)
}

func (a *API) unbanUser(c *call) (any, error) {
	change, err := a.changeOf(c, "leave")
	if err != nil {
		return nil, err
	}
	change.Only = []string{"ban"}
	return nil, a.Rooms.SetMembership(c.Request().Context(), change)
}

// putMember is PUT state of an m.room.member: a change of membership with a content of the client's choice.
func (a *API) putMember(c *call, roomID id.RoomID, key string, content json.RawMessage) (any, error) {
	target, err := id.ParseUserID(key)
	if err != nil {
		return nil, err
	}
	var extra map[string]json.RawMessage
	if err := unmarshal(content, &extra); err != nil {
		return nil, err
	}
	change := room.Change{Room: roomID, Sender: c.Requester.User, Target: target, Extra: extra}
	if json.Unmarshal(extra["membership"], &change.Membership) != nil || change.Membership == "" {
		return nil, fail(http.StatusBadRequest, "M_BAD_JSON", "membership must be a string")
	}
	if change.Membership == "invite" && target.Server() != a.Server {
		if err := a.Rooms.Invite(c.Request().Context(), change); err != nil {
			return nil, err
		}
	} else if err := a.Rooms.SetMembership(c.Request().Context(), change); err != nil {
		return nil, err
	}
	eventID, err := a.Rooms.StateEventID(c.Request().Context(), roomID, event.StateKeyTuple{Type: event.TypeMember, StateKey: key})
	if err != nil {
		return nil, err
	}
	return sent(eventID), nil
}
