package pushrule

import (
	"encoding/json"
	"strings"

	"github.com/securecomm/securecomm/homeserver/id"
)

// The predefined rules that the evaluation treats in a way of their own.
const (
	master              = ".m.rule.master"
	containsDisplayName = ".m.rule.contains_display_name"
	containsUserName    = ".m.rule.contains_user_name"
	roomNotification    = ".m.rule.roomnotif"
)

// legacy says that a rule looks for mentions in the text of a message. Such rules left the specification in version
// 1.17; they are kept for senders that do not state whom they mention, and say nothing of events that do.
func legacy(rule *Rule) bool {
	return rule.Default && (rule.ID == containsDisplayName || rule.ID == containsUserName || rule.ID == roomNotification)
}

const (
	quiet     = `[]`
	notify    = `["notify"]`
	sound     = `["notify",{"set_tweak":"sound","value":"default"}]`
	ring      = `["notify",{"set_tweak":"sound","value":"ring"}]`
	highlight = `["notify",{"set_tweak":"highlight"}]`
	alarm     = `["notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}]`
)

func match(key, pattern string) string {
	return `{"kind":"event_match","key":` + quote(key) + `,"pattern":` + quote(pattern) + `}`
}

func property(kind, key, value string) string {
	return `{"kind":"` + kind + `","key":` + quote(key) + `,"value":` + value + `}`
}

func quote(s string) string {
	raw, err := json.Marshal(s)
	if err != nil { // never: a string can be encoded
		return `""`
	}
	return string(raw)
}

func predefined(ruleID, actions string, conditions ...string) Rule {
	return Rule{
		ID: ruleID, Default: true, Enabled: ruleID != master,
		Conditions: json.RawMessage("[" + strings.Join(conditions, ",") + "]"), Actions: json.RawMessage(actions),
	}
}

// Default is the predefined rules, as they are for a user.
func Default(user id.UserID) Ruleset {
	const (
		two        = `{"kind":"room_member_count","is":"2"}`
		roomNotify = `{"kind":"sender_notification_permission","key":"room"}`
	)
	typ := func(t string) string { return match("type", t) }
	return Ruleset{
		Override: []Rule{
			predefined(master, quiet),
			predefined(".m.rule.suppress_notices", quiet, match("content.msgtype", "m.notice")),
			predefined(".m.rule.invite_for_me", sound, typ("m.room.member"), match("content.membership", "invite"), match("state_key", string(user))),
			predefined(".m.rule.member_event", quiet, typ("m.room.member")),
			predefined(".m.rule.is_user_mention", alarm, property("event_property_contains", `content.m\.mentions.user_ids`, quote(string(user)))),
			predefined(containsDisplayName, alarm, `{"kind":"contains_display_name"}`),
			predefined(".m.rule.is_room_mention", highlight, property("event_property_is", `content.m\.mentions.room`, "true"), roomNotify),
			predefined(roomNotification, highlight, match("content.body", "@room"), roomNotify),
			predefined(".m.rule.tombstone", highlight, typ("m.room.tombstone"), match("state_key", "")),
			predefined(".m.rule.reaction", quiet, typ("m.reaction")),
			predefined(".m.rule.room.server_acl", quiet, typ("m.room.server_acl"), match("state_key", "")),
			predefined(".m.rule.suppress_edits", quiet, property("event_property_is", `content.m\.relates_to.rel_type`, `"m.replace"`)),
		},
		Content: []Rule{{ID: containsUserName, Default: true, Enabled: true, Pattern: escape(user.Localpart()), Actions: json.RawMessage(alarm)}},
		Room:    []Rule{},
		Sender:  []Rule{},
		Underride: []Rule{
			predefined(".m.rule.call", ring, typ("m.call.invite")),
			predefined(".m.rule.encrypted_room_one_to_one", sound, two, typ("m.room.encrypted")),
			predefined(".m.rule.room_one_to_one", sound, two, typ("m.room.message")),
			predefined(".m.rule.message", notify, typ("m.room.message")),
			predefined(".m.rule.encrypted", notify, typ("m.room.encrypted")),
		},
	}
}

// escape makes a pattern of a name that might, in old user IDs, hold what patterns give a meaning to.
// There is no way to escape that in a pattern, so it is let match anything.
func escape(name string) string { return strings.ReplaceAll(name, "*", "?") }
