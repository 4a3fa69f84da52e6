package roomtest

import (
	gmsl "github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
)

// Oracle resolves states by gomatrixserverlib; all are the events they come from.
func Oracle(v *event.Version, all []*event.Event, sets []map[event.StateKeyTuple]id.EventID) (map[event.StateKeyTuple]id.EventID, error) {
	version := gmsl.RoomVersion(v.ID)
	pdus := make(map[id.EventID]gmsl.PDU)
	var given []gmsl.PDU
	for _, e := range all {
		pdu, err := gmsl.MustGetRoomVersion(version).NewEventFromTrustedJSONWithEventID(string(e.ID), e.JSON, false)
		if err != nil {
			return nil, err
		}
		pdus[e.ID] = pdu
		given = append(given, pdu)
	}
	if v.StateRes == event.StateResV1 {
		// Here it wants to be handed only what the sets agree upon.
		given = nil
		for key, eventID := range sets[0] {
			agreed := true
			for _, set := range sets[1:] {
				agreed = agreed && (set[key] == eventID || set[key] == "")
			}
			if agreed {
				given = append(given, pdus[eventID])
			}
		}
	}
	var states [][]gmsl.PDU
	for _, set := range sets {
		var state []gmsl.PDU
		for _, eventID := range set {
			state = append(state, pdus[eventID])
		}
		states = append(states, state)
	}
	user := func(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
		return spec.NewUserID(string(sender), true)
	}
	resolved, err := gmsl.ResolveConflictsNew(version, states, given, user, func(string) bool { return false })
	answer := map[event.StateKeyTuple]id.EventID{}
	for _, pdu := range resolved {
		answer[event.StateKeyTuple{Type: pdu.Type(), StateKey: *pdu.StateKey()}] = id.EventID(pdu.EventID())
	}
	return answer, err
}
