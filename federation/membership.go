package federation

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
)

func (a *API) membershipRoutes() []route {
	return []route{
		{GET, "/v1/make_join/:roomId/:userId", signed, none, a.make("join")},
		{PUT, "/v1/send_join/:roomId/:eventId", signed, small, inPair(a.inTurn(a.sendJoin))},
		{PUT, "/v2/send_join/:roomId/:eventId", signed, small, a.inTurn(a.sendJoin)},
		{GET, "/v1/make_knock/:roomId/:userId", signed, none, a.make("knock")},
		{PUT, "/v1/send_knock/:roomId/:eventId", signed, small, a.inTurn(a.sendKnock)},
		{GET, "/v1/make_leave/:roomId/:userId", signed, none, a.make("leave")},
		{PUT, "/v1/send_leave/:roomId/:eventId", signed, small, inPair(a.inTurn(a.sendLeave))},
		{PUT, "/v2/send_leave/:roomId/:eventId", signed, small, a.inTurn(a.sendLeave)},
	}
}

// inPair is the form of version 1 of some endpoints: a status code, then what version 2 answers.
func inPair(handle func(*call) (any, error)) func(*call) (any, error) {
	return func(c *call) (any, error) {
		answer, err := handle(c)
		if whole, ok := answer.(*large); ok && err == nil {
			whole.before, whole.behind = "[200,", "]"
			return whole, nil
		}
		if answer == nil {
			answer = object{}
		}
		return [2]any{http.StatusOK, answer}, err
	}
}

// allowed refuses servers that a room's access list bars.
func (a *API) allowed(ctx context.Context, roomID id.RoomID, server id.ServerName) error {
	ok, err := a.Rooms.ServerAllowed(ctx, roomID, server)
	if err == nil && !ok {
		err = fail(http.StatusForbidden, "M_FORBIDDEN", "the access list of the room bars your server")
	}
	return err
}

// make answers make_join, make_leave and make_knock with a template.
func (a *API) make(membership string) func(*call) (any, error) {
	return func(c *call) (any, error) {
		roomID, err := c.roomID()
		if err != nil {
			return nil, err
		}
		user, err := c.userID()
		if err != nil {
			return nil, err
		}
		ctx := c.Request().Context()
		if err := a.allowed(ctx, roomID, c.Origin); err != nil {
			return nil, err
		}
		versions := []id.RoomVersion{}
		for _, v := range c.queries()["ver"] {
			versions = append(versions, id.RoomVersion(v))
		}
		if len(versions) == 0 {
			versions = append(versions, "1")
		}
		version, template, err := a.Rooms.MakeMembership(ctx, c.Origin, membership, roomID, user, versions)
		return map[string]any{"room_version": version, "event": template}, err
	}
}

// handedIn reads where a membership event is for.
func (a *API) handedIn(c *call) (id.RoomID, id.EventID, error) {
	roomID, eventID, err := c.roomAndEvent()
	if err != nil {
		return "", "", err
	}
	if !json.Valid(c.raw) {
		return "", "", fail(http.StatusBadRequest, "M_NOT_JSON", "the body is not valid JSON")
	}
	return roomID, eventID, a.allowed(c.Request().Context(), roomID, c.Origin)
}

func (a *API) sendJoin(c *call) (any, error) {
	roomID, eventID, err := a.handedIn(c)
	if err != nil {
		return nil, err
	}
	omit := c.query("omit_members") == "true"
	joined, err := a.Rooms.ReceiveJoin(c.Request().Context(), c.Origin, roomID, eventID, c.raw, omit)
	if err != nil {
		return nil, err
	}
	return &large{
		rest: map[string]any{
			"origin": a.Server, "event": json.RawMessage(joined.Event.JSON), "members_omitted": omit, "servers_in_room": joined.Servers,
		},
		events: []eventList{{"state", joined.State}, {"auth_chain", joined.AuthChain}},
	}, nil
}

func (a *API) sendLeave(c *call) (any, error) {
	roomID, eventID, err := a.handedIn(c)
	if err != nil {
		return nil, err
	}
	return nil, a.Rooms.ReceiveLeave(c.Request().Context(), c.Origin, roomID, eventID, c.raw)
}

func (a *API) sendKnock(c *call) (any, error) {
	roomID, eventID, err := a.handedIn(c)
	if err != nil {
		return nil, err
	}
	state, err := a.Rooms.ReceiveKnock(c.Request().Context(), c.Origin, roomID, eventID, c.raw)
	return map[string]any{"knock_room_state": orEmpty(state)}, err
}

func orEmpty(l []json.RawMessage) []json.RawMessage {
	if l == nil {
		return []json.RawMessage{}
	}
	return l
}

func (a *API) inviteRoutes() []route {
	return []route{
		{PUT, "/v1/invite/:roomId/:eventId", signed, small, inPair(a.inviteV1)},
		{PUT, "/v2/invite/:roomId/:eventId", signed, small, a.invite},
		{PUT, "/v1/exchange_third_party_invite/:roomId", signed, small, noThirdParties},
		{PUT, "/v1/3pid/onbind", public, small, noThirdParties},
	}
}

func (a *API) invite(c *call) (any, error) {
	var body struct {
		Version id.RoomVersion    `json:"room_version"`
		Event   json.RawMessage   `json:"event"`
		State   []json.RawMessage `json:"invite_room_state"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if body.Version == "" || len(body.Event) == 0 {
		return nil, fail(http.StatusBadRequest, "M_MISSING_PARAM", "room_version and event are needed")
	}
	return a.receiveInvite(c, body.Version, body.Event, body.State)
}

// inviteV1 takes invites in the form of version 1: the event itself, of a room of version 1 or 2, which can't be
// told apart and are the same here.
func (a *API) inviteV1(c *call) (any, error) {
	var body struct {
		Unsigned struct {
			State []json.RawMessage `json:"invite_room_state"`
		} `json:"unsigned"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	return a.receiveInvite(c, "1", c.raw, body.Unsigned.State)
}

func (a *API) receiveInvite(c *call, version id.RoomVersion, raw json.RawMessage, state []json.RawMessage) (any, error) {
	roomID, eventID, err := a.handedIn(c)
	if err != nil {
		return nil, err
	}
	invite, err := a.Rooms.ReceiveInvite(c.Request().Context(), c.Origin, roomID, eventID, version, raw, state)
	if isUnknownVersion(err) {
		err = &room.IncompatibleVersion{Version: version}
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"event": json.RawMessage(invite.JSON)}, nil
}

// noThirdParties is the honest answer to what concerns e-mail addresses and phone numbers: this server knows none.
func noThirdParties(*call) (any, error) {
	return nil, fail(http.StatusForbidden, "M_FORBIDDEN", "this server does not take part in invites by third-party identifiers")
}
