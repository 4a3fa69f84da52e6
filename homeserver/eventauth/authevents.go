package eventauth

import (
	"encoding/json"
	"slices"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
)

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
