package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Template is an event that another server proposes, unsigned. Before it is signed, every field of it
// that we did not choose must be checked.
type Template struct {
	// RoomVersion is "1" where the other server names none.
	RoomVersion id.RoomVersion  `json:"room_version"`
	Event       json.RawMessage `json:"event"`
}

// MakeJoin asks for a template of a user's join; versions are the room versions that we support.
func (c *Client) MakeJoin(ctx context.Context, to id.ServerName, room id.RoomID, user id.UserID, versions []id.RoomVersion) (Template, error) {
	return c.template(ctx, to, "make_join", room, user, versions)
}

// MakeKnock asks for a template of a user's knock.
func (c *Client) MakeKnock(ctx context.Context, to id.ServerName, room id.RoomID, user id.UserID, versions []id.RoomVersion) (Template, error) {
	return c.template(ctx, to, "make_knock", room, user, versions)
}

// MakeLeave asks for a template with which a user rejects an invite or takes a knock back.
func (c *Client) MakeLeave(ctx context.Context, to id.ServerName, room id.RoomID, user id.UserID) (Template, error) {
	return c.template(ctx, to, "make_leave", room, user, nil)
}

func (c *Client) template(ctx context.Context, to id.ServerName, operation string, room id.RoomID, user id.UserID, versions []id.RoomVersion) (Template, error) {
	query := url.Values{}
	for _, version := range versions {
		query.Add("ver", string(version))
	}
	path := join(federation1, operation, string(room), string(user))
	var answer Template
	if err := c.do(ctx, to, get(limitSmall, path, query), &answer); err != nil {
		return Template{}, err
	}
	if answer.RoomVersion == "" {
		answer.RoomVersion = "1"
	}
	if len(answer.Event) == 0 {
		return Template{}, malformed(to, path, errMissing)
	}
	return answer, nil
}

// JoinResult is the state of a room that we joined, before the join.
type JoinResult struct {
	AuthChain []json.RawMessage
	State     []json.RawMessage
	// Event is the join with the resident server's signature; nil unless the room is restricted.
	Event          json.RawMessage
	MembersOmitted bool
	// ServersInRoom is there if members were omitted.
	ServersInRoom []id.ServerName
}

// SendJoin hands in a signed join. With omitMembers the answer may lack other users' membership events. Servers that do
// not know version 2 of this are asked by version 1, as by all that hands in memberships.
func (c *Client) SendJoin(ctx context.Context, to id.ServerName, room id.RoomID, event id.EventID, signed json.RawMessage, omitMembers bool) (JoinResult, error) {
	request, err := handIn(federation2, "send_join", room, event, signed)
	if err != nil {
		return JoinResult{}, err
	}
	request.limit, request.timeout = limitStates, timeoutLong
	if omitMembers {
		request.query = url.Values{"omit_members": {"true"}}
	}
	var answer JoinResult
	members := map[string]member{
		"auth_chain": each(&answer.AuthChain, maxList, maxEntry), "state": each(&answer.State, maxList, maxEntry),
		"event": one(&answer.Event), "members_omitted": one(&answer.MembersOmitted), "servers_in_room": each(&answer.ServersInRoom, maxList, maxName),
	}
	if err = c.doMembers(ctx, to, request, members); mayBeOld(err) {
		request.path, request.query = join(federation1, "send_join", string(room), string(event)), nil
		err = c.doPair(ctx, to, request, members)
	}
	if err != nil {
		return JoinResult{}, err
	}
	answer.ServersInRoom = only(answer.ServersInRoom, id.ParseServerName)
	return answer, nil
}

// SendLeave hands in a signed leave.
func (c *Client) SendLeave(ctx context.Context, to id.ServerName, room id.RoomID, event id.EventID, leave json.RawMessage) error {
	request, err := handIn(federation2, "send_leave", room, event, leave)
	if err != nil {
		return err
	}
	if err = c.do(ctx, to, request, nil); mayBeOld(err) {
		request.path = join(federation1, "send_leave", string(room), string(event))
		err = c.do(ctx, to, request, nil)
	}
	return err
}

// SendKnock hands in a signed knock and gets the events that show which room it is.
func (c *Client) SendKnock(ctx context.Context, to id.ServerName, room id.RoomID, event id.EventID, knock json.RawMessage) ([]json.RawMessage, error) {
	request, err := handIn(federation1, "send_knock", room, event, knock)
	if err != nil {
		return nil, err
	}
	var answer struct {
		RoomState []json.RawMessage `json:"knock_room_state"`
	}
	err = c.do(ctx, to, request, &answer)
	return answer.RoomState, err
}

func handIn(api, operation string, room id.RoomID, event id.EventID, body json.RawMessage) (call, error) {
	return send(http.MethodPut, limitSmall, join(api, operation, string(room), string(event)), body)
}

// Invite is an invite for a user of the other server.
type Invite struct {
	RoomVersion id.RoomVersion  `json:"room_version"`
	Event       json.RawMessage `json:"event"`
	// RoomState are events that show the invited user which room it is.
	RoomState []json.RawMessage `json:"invite_room_state,omitempty"`
}

// Invite hands in an invite and returns the event with the other server's signature. Servers that do not
// know version 2 of this are asked by version 1, for the room versions that it can carry.
func (c *Client) Invite(ctx context.Context, to id.ServerName, room id.RoomID, event id.EventID, invite Invite) (json.RawMessage, error) {
	type answer struct {
		Event json.RawMessage `json:"event"`
	}
	path := join(federation2, "invite", string(room), string(event))
	var got answer
	err := c.sendJSON(ctx, to, http.MethodPut, limitSmall, path, invite, &got)
	if mayBeOld(err) && (invite.RoomVersion == "1" || invite.RoomVersion == "2") {
		body, bodyErr := inviteV1(invite)
		if bodyErr != nil {
			return nil, bodyErr
		}
		path = join(federation1, "invite", string(room), string(event))
		var pair [2]json.RawMessage // a status code, then what version 2 answers
		if err = c.sendJSON(ctx, to, http.MethodPut, limitSmall, path, body, &pair); err == nil && json.Unmarshal(pair[1], &got) != nil {
			return nil, malformed(to, path, errMissing)
		}
	}
	if err != nil {
		return nil, err
	}
	if len(got.Event) == 0 {
		return nil, malformed(to, path, errMissing)
	}
	return got.Event, nil
}

// mayBeOld tells whether a server may have refused a request because it does not know version 2 of the endpoint: it
// says so, or nothing that the specification has a code for.
func mayBeOld(err error) bool {
	var refusal *Error
	if !errors.As(err, &refusal) {
		return false
	}
	switch refusal.Status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed:
		return refusal.Code == "M_UNRECOGNIZED" || refusal.Code == "" || refusal.Code == "M_UNKNOWN"
	}
	return false
}

// inviteV1 is the body of version 1: the event itself, which carries the room's state as unsigned.
func inviteV1(invite Invite) (map[string]json.RawMessage, error) {
	body := map[string]json.RawMessage{}
	if err := json.Unmarshal(invite.Event, &body); err != nil {
		return nil, fmt.Errorf("inviting: %w", err)
	}
	if invite.RoomState == nil {
		return body, nil
	}
	unsigned, err := json.Marshal(map[string]any{"invite_room_state": invite.RoomState})
	if err != nil {
		return nil, fmt.Errorf("inviting: %w", err)
	}
	body["unsigned"] = unsigned
	return body, nil
}
