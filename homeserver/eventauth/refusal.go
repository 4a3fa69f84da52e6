package eventauth

import (
	"strconv"

	"github.com/securecomm/securecomm/homeserver/event"
)

// Refusal says why an event is not allowed.
type Refusal struct {
	// Rule is the number in the list of rules of the event's room version, such as "5.2.3".
	Rule string
	// Reason is for people; it names no content of the event.
	Reason string
	// Malformed says that the content itself breaks the rule, whoever the sender is.
	Malformed bool
}

// Error gives both.
func (r *Refusal) Error() string { return "not allowed by rule " + r.Rule + ": " + r.Reason }

func refuse(reason string, number ...int) error { return newRefusal(reason, number) }

func refuseContent(reason string, number ...int) error {
	r := newRefusal(reason, number)
	r.Malformed = true
	return r
}

func newRefusal(reason string, number []int) *Refusal {
	rule := make([]byte, 0, 12)
	for i, n := range number {
		if i > 0 {
			rule = append(rule, '.')
		}
		rule = strconv.AppendInt(rule, int64(n), 10)
	}
	return &Refusal{Rule: string(rule), Reason: reason}
}

// ruleNumbers is where the rules stand in the list of a room version. Rules that a version does not have are 0.
type ruleNumbers struct {
	roomID, authEvents, federate, aliases, member, joined, thirdParty, level, stateKey, powerLevels, redaction int
	memberRules
	levelRules
}

// memberRules number the points under the rule for m.room.member.
type memberRules struct {
	signed, join, invite, leave, ban, knock, unknown int
	restricted, joinOtherwise                        int // under join
}

// levelRules number the points under the rule for m.room.power_levels.
type levelRules struct {
	named, maps, users, creators, namedChange, entryOld, entryNew, userOld, userNew int
}

const createRule = 1 // the same in every version

// counter deals out consecutive numbers to those rules that exist.
type counter int

func (c *counter) next(exists bool) int {
	if !exists {
		return 0
	}
	*c++
	return int(*c)
}

// numbersOf computes the numbers, which is cheap, when an event is refused or is about membership.
func numbersOf(v *event.Version) ruleNumbers {
	var n ruleNumbers
	top := counter(createRule)
	n.roomID = top.next(v.RoomIDIsCreateHash)
	n.authEvents = top.next(true)
	n.federate = top.next(true)
	n.aliases = top.next(v.AliasesAuth)
	n.member = top.next(true)
	n.joined = top.next(true)
	n.thirdParty = top.next(true)
	n.level = top.next(true)
	n.stateKey = top.next(true)
	n.powerLevels = top.next(true)
	n.redaction = top.next(v.RedactionAuth)

	member := counter(1)
	n.signed = member.next(v.RestrictedJoin)
	n.join = member.next(true)
	n.invite = member.next(true)
	n.leave = member.next(true)
	n.ban = member.next(true)
	n.knock = member.next(v.Knock)
	n.unknown = member.next(true)
	join := counter(4)
	n.restricted = join.next(v.RestrictedJoin)
	join.next(true) // public
	n.joinOtherwise = join.next(true)

	var levels counter
	n.named = levels.next(v.IntegerPowerLevels)
	n.maps = levels.next(v.IntegerPowerLevels)
	n.users = levels.next(true)
	n.creators = levels.next(v.PrivilegedCreators)
	levels.next(true) // no power levels before
	n.namedChange = levels.next(true)
	n.entryOld = levels.next(true)
	n.entryNew = levels.next(true)
	n.userOld = levels.next(true)
	n.userNew = levels.next(true)
	return n
}
