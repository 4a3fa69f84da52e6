package eventauth

import (
	"encoding/json"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
)

// Memberships, as m.room.member says them. "invite", "ban" and "knock" are also levels or rules.
const (
	join  = "join"
	leave = "leave"
)

const authorisedVia = "join_authorised_via_users_server"

// memberOf is a user's membership; empty if there is none.
func memberOf(state State, user id.UserID) string {
	if e := state.Get(event.TypeMember, string(user)); e != nil {
		return e.Membership()
	}
	return ""
}

func (c *Context) authorizeMember(e *event.Event, state State) error {
	n := numbersOf(e.Version)
	if e.StateKey == nil || e.Membership() == "" {
		return refuse("there is no state key or no membership", n.member, 1)
	}
	var content map[string]json.RawMessage
	if e.Version.RestrictedJoin || e.Membership() == "invite" {
		if json.Unmarshal(e.Content, &content) != nil {
			return refuse("the content is not an object", n.member, 1)
		}
	}
	if _, ok := content[authorisedVia]; ok && e.Version.RestrictedJoin {
		if !signedBy(e, id.UserID(stringMember(content, authorisedVia)).Server()) {
			return refuse("the server that authorised the join did not sign it", n.member, n.signed, 1)
		}
	}
	switch e.Membership() {
	case join:
		return c.authorizeJoin(e, state, content)
	case "invite":
		return c.authorizeInvite(e, state, content)
	case leave:
		return c.authorizeLeave(e, state)
	case "ban":
		return c.authorizeBan(e, state)
	case "knock":
		if e.Version.Knock {
			return c.authorizeKnock(e, state)
		}
	}
	return refuse("the membership is unknown", n.member, n.unknown)
}

// signedBy reports whether a server's signature is on the event; event.Verify has checked that it is right.
func signedBy(e *event.Event, server id.ServerName) bool {
	var members map[string]json.RawMessage
	if server == "" || json.Unmarshal(e.JSON, &members) != nil {
		return false
	}
	var signatures map[string]map[string]string
	return json.Unmarshal(members["signatures"], &signatures) == nil && len(signatures[string(server)]) > 0
}

func (c *Context) authorizeJoin(e *event.Event, state State, content map[string]json.RawMessage) error {
	n := numbersOf(e.Version)
	target := id.UserID(*e.StateKey)
	if len(e.PrevEvents) == 1 && e.PrevEvents[0] == c.create.event.ID && target == c.create.creator {
		return nil
	}
	if e.Sender != target {
		return refuse("nobody can join for another", n.member, n.join, 2)
	}
	before := memberOf(state, target)
	if before == "ban" {
		return refuse("the sender is banned", n.member, n.join, 3)
	}
	invited := before == "invite" || before == join
	v := e.Version
	switch rule := c.joinRule; {
	case rule == "invite" || rule == "knock" && v.Knock:
		if invited {
			return nil
		}
	case rule == "restricted" && v.RestrictedJoin || rule == "knock_restricted" && v.KnockRestricted:
		if invited || c.MayInvite(id.UserID(stringMember(content, authorisedVia)), state) {
			return nil
		}
		return refuse("the join is not authorised by a member who may invite", n.member, n.join, n.restricted, 2)
	case rule == "public":
		return nil
	}
	return refuse("the join rule does not let the sender in", n.member, n.join, n.joinOtherwise)
}

// MayInvite reports whether a user is joined and has the level to invite, which is also what it takes to
// authorise the join of a restricted room.
func (c *Context) MayInvite(user id.UserID, state State) bool {
	return user != "" && memberOf(state, user) == join && c.UserLevel(user) >= c.levels.Invite()
}

func (c *Context) authorizeInvite(e *event.Event, state State, content map[string]json.RawMessage) error {
	if invite, ok := content["third_party_invite"]; ok {
		return authorizeThirdParty(e, state, invite)
	}
	n := numbersOf(e.Version)
	if memberOf(state, e.Sender) != join {
		return refuse("the sender is not in the room", n.member, n.invite, 2)
	}
	if before := memberOf(state, id.UserID(*e.StateKey)); before == join || before == "ban" {
		return refuse("the invited user is joined or banned", n.member, n.invite, 3)
	}
	if c.UserLevel(e.Sender) < c.levels.Invite() {
		return refuse("the sender may not invite", n.member, n.invite, 5)
	}
	return nil
}

func (c *Context) authorizeLeave(e *event.Event, state State) error {
	n := numbersOf(e.Version)
	target := id.UserID(*e.StateKey)
	before := memberOf(state, target)
	if e.Sender == target {
		if before == join || before == "invite" || before == "knock" && e.Version.Knock {
			return nil
		}
		return refuse("the sender has nothing to leave", n.member, n.leave, 1)
	}
	if memberOf(state, e.Sender) != join {
		return refuse("the sender is not in the room", n.member, n.leave, 2)
	}
	level := c.UserLevel(e.Sender)
	if before == "ban" && level < c.levels.Ban() {
		return refuse("the sender may not unban", n.member, n.leave, 3)
	}
	if level < c.levels.Kick() || c.UserLevel(target) >= level {
		return refuse("the sender may not remove this user", n.member, n.leave, 5)
	}
	return nil
}

func (c *Context) authorizeBan(e *event.Event, state State) error {
	n := numbersOf(e.Version)
	if memberOf(state, e.Sender) != join {
		return refuse("the sender is not in the room", n.member, n.ban, 1)
	}
	level := c.UserLevel(e.Sender)
	if level < c.levels.Ban() || c.UserLevel(id.UserID(*e.StateKey)) >= level {
		return refuse("the sender may not ban this user", n.member, n.ban, 3)
	}
	return nil
}

func (c *Context) authorizeKnock(e *event.Event, state State) error {
	n := numbersOf(e.Version)
	if c.joinRule != "knock" && (c.joinRule != "knock_restricted" || !e.Version.KnockRestricted) {
		return refuse("the join rule does not allow knocking", n.member, n.knock, 1)
	}
	if string(e.Sender) != *e.StateKey {
		return refuse("nobody can knock for another", n.member, n.knock, 2)
	}
	if slices.Contains([]string{"ban", "invite", join}, memberOf(state, e.Sender)) {
		return refuse("the sender is banned, invited or joined", n.member, n.knock, 4)
	}
	return nil
}
