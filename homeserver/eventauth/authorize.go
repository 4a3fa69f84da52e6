package eventauth

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
)

// Authorize reports whether the state allows an event; an error is always a *Refusal. The m.room.create
// of a room of version 12 or later may be handed in if the state does not have it; it may be nil otherwise.
// The event's own auth events are not looked at; that is CheckAuthEvents.
func Authorize(e *event.Event, state State, create *event.Event) error {
	return NewContext(state, create).Authorize(e, state)
}

// Authorize is Authorize with the state's context at hand. Of the state only members and third-party
// invites are read.
func (c *Context) Authorize(e *event.Event, state State) error {
	if e.Type == event.TypeCreate {
		return authorizeCreate(e)
	}
	if c.create == nil || c.create.event.RoomID != e.RoomID {
		return c.refuseRoom(e)
	}
	if !c.create.federate && e.Sender.Server() != c.create.event.Sender.Server() {
		return refuse("the room is closed to other servers", numbersOf(e.Version).federate)
	}
	switch {
	case e.Type == event.TypeAliases && e.Version.AliasesAuth:
		return authorizeAliases(e)
	case e.Type == event.TypeMember:
		return c.authorizeMember(e, state)
	}
	if sender := state.Get(event.TypeMember, string(e.Sender)); sender == nil || sender.Membership() != join {
		return refuse("the sender is not in the room", numbersOf(e.Version).joined)
	}
	level := c.UserLevel(e.Sender)
	if e.Type == event.TypeThirdPartyInvite {
		if level < c.levels.Invite() {
			return refuse("the sender may not invite", numbersOf(e.Version).thirdParty, 1)
		}
		return nil
	}
	if level < c.levels.Event(e.Type, e.StateKey != nil) {
		return refuse("the sender's power level is too low for this type of event", numbersOf(e.Version).level)
	}
	if e.StateKey != nil && strings.HasPrefix(*e.StateKey, "@") && *e.StateKey != string(e.Sender) {
		return refuse("the state key is another user's", numbersOf(e.Version).stateKey)
	}
	switch {
	case e.Type == event.TypePowerLevels:
		return c.authorizeLevels(e, level)
	case e.Type == event.TypeRedaction && e.Version.RedactionAuth:
		if level < c.levels.Redact() && e.Redacts.Server() != e.ID.Server() {
			return refuse("the sender may not redact events of other servers", numbersOf(e.Version).redaction, 3)
		}
	}
	return nil
}

// MayRedact reports whether a redaction takes effect on its target, which in room version 3 and later is
// apart from its being allowed ("Handling redactions").
func (c *Context) MayRedact(redaction, target *event.Event) bool {
	return c.UserLevel(redaction.Sender) >= c.levels.Redact() || redaction.Sender.Server() == target.Sender.Server()
}

// refuseRoom refuses an event that is not of the room that was created.
func (c *Context) refuseRoom(e *event.Event) error {
	switch {
	case e.Version.RoomIDIsCreateHash:
		return refuse("the room ID is not that of an accepted create event", numbersOf(e.Version).roomID)
	case c.create == nil:
		return refuse("the room has no create event", numbersOf(e.Version).authEvents, 4)
	default:
		return refuse("the create event is of another room", numbersOf(e.Version).authEvents, 5)
	}
}

func authorizeCreate(e *event.Event) error {
	v := e.Version
	if len(e.PrevEvents) > 0 {
		return refuse("a create event follows no event", createRule, 1)
	}
	// That there is only the empty state key is not in the list of rules but in the event's schema.
	if !e.StateKeyIs(event.TypeCreate, "") {
		return refuse("a create event has the empty state key", createRule)
	}
	if v.RoomIDIsCreateHash {
		var members map[string]json.RawMessage
		if json.Unmarshal(e.JSON, &members) != nil || members["room_id"] != nil {
			return refuse("a create event has no room ID", createRule, 2)
		}
	} else if e.RoomID.Server() != e.Sender.Server() {
		return refuse("the room ID is of another server than the sender", createRule, 2)
	}
	var content map[string]json.RawMessage
	if json.Unmarshal(e.Content, &content) != nil {
		return refuse("the content is not an object", createRule, 3)
	}
	if _, ok := content["room_version"]; ok {
		if _, ok := event.VersionOf(id.RoomVersion(stringMember(content, "room_version"))); !ok {
			return refuse("the room version is not known", createRule, 3)
		}
	}
	if _, ok := content["creator"]; !ok && !v.UseCreateSender {
		return refuse("the content names no creator", createRule, 4)
	}
	if additional, ok := content["additional_creators"]; ok && v.PrivilegedCreators && !userIDs(additional) {
		return refuse("the additional creators are not a list of user IDs", createRule, 4)
	}
	return nil
}

// userIDs reports whether a value is an array of user IDs.
func userIDs(raw json.RawMessage) bool {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil || list == nil {
		return false
	}
	for _, item := range list {
		var s string
		if json.Unmarshal(item, &s) != nil {
			return false
		}
		if _, err := id.ParseUserID(s); err != nil {
			return false
		}
	}
	return true
}

func authorizeAliases(e *event.Event) error {
	if e.StateKey == nil {
		return refuse("aliases are state", numbersOf(e.Version).aliases, 1)
	}
	if *e.StateKey != string(e.Sender.Server()) {
		return refuse("the aliases are another server's", numbersOf(e.Version).aliases, 2)
	}
	return nil
}

// AuthEventsNeeded is which pieces of the state before an event become its auth events, as far as they
// exist (Server-Server API, "Auth events selection").
func AuthEventsNeeded(v *event.Version, typ string, stateKey *string, sender id.UserID, content json.RawMessage) []event.StateKeyTuple {
	if typ == event.TypeCreate {
		return nil
	}
	needed := make([]event.StateKeyTuple, 0, 6)
	if !v.NoCreateInAuthEvents {
		needed = append(needed, event.StateKeyTuple{Type: event.TypeCreate})
	}
	needed = append(needed, event.StateKeyTuple{Type: event.TypePowerLevels}, event.StateKeyTuple{Type: event.TypeMember, StateKey: string(sender)})
	if typ != event.TypeMember {
		return needed
	}
	member := func(user string) {
		if tuple := (event.StateKeyTuple{Type: event.TypeMember, StateKey: user}); !slices.Contains(needed, tuple) {
			needed = append(needed, tuple)
		}
	}
	if stateKey != nil {
		member(*stateKey)
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(content, &members) != nil {
		return needed
	}
	membership := stringMember(members, "membership")
	if membership == join || membership == "invite" || membership == "knock" {
		needed = append(needed, event.StateKeyTuple{Type: event.TypeJoinRules})
	}
	if third, ok := members["third_party_invite"]; ok && membership == "invite" {
		var invite, signed map[string]json.RawMessage
		if json.Unmarshal(third, &invite) == nil && json.Unmarshal(invite["signed"], &signed) == nil {
			if token := stringMember(signed, "token"); token != "" {
				needed = append(needed, event.StateKeyTuple{Type: event.TypeThirdPartyInvite, StateKey: token})
			}
		}
	}
	if via := stringMember(members, authorisedVia); via != "" && membership == join && v.RestrictedJoin {
		member(via)
	}
	return needed
}

// CheckAuthEvents is the rule about an event's auth events, all of which the caller has fetched. The
// caller knows which of them were rejected; for that part of the rule see RefuseRejected.
func CheckAuthEvents(e *event.Event, auth []*event.Event) error {
	if e.Type == event.TypeCreate {
		return nil
	}
	needed := AuthEventsNeeded(e.Version, e.Type, e.StateKey, e.Sender, e.Content)
	seen := make([]event.StateKeyTuple, 0, len(needed))
	for _, a := range auth {
		if a.StateKey != nil && slices.Contains(seen, a.Tuple()) {
			return refuse("two auth events are of the same type and state key", numbersOf(e.Version).authEvents, 1)
		}
		if a.StateKey == nil || !slices.Contains(needed, a.Tuple()) {
			return refuse("an auth event has no bearing on the event", numbersOf(e.Version).authEvents, 2)
		}
		seen = append(seen, a.Tuple())
	}
	if !e.Version.NoCreateInAuthEvents && !slices.Contains(seen, event.StateKeyTuple{Type: event.TypeCreate}) {
		return refuse("the create event is not among the auth events", numbersOf(e.Version).authEvents, 4)
	}
	for _, a := range auth {
		if a.RoomID != e.RoomID {
			return refuse("an auth event is of another room", numbersOf(e.Version).authEvents, 5)
		}
	}
	return nil
}

// RefuseRejected is the refusal of an event one of whose auth events was rejected.
func RefuseRejected(e *event.Event) *Refusal {
	return refuse("an auth event was rejected", numbersOf(e.Version).authEvents, 3).(*Refusal)
}
