package pushrule

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Outcome is what the rules of a user say of an event.
type Outcome struct {
	Notify    bool
	Highlight bool
	Actions   json.RawMessage // of the rule that matched, as its owner wrote them; nil if none did
}

// Rules are the rules of a user made ready for evaluation. They never change and may be shared.
type Rules struct {
	user          id.UserID
	first         []compiled // overrides, then content rules
	rooms         map[id.RoomID]Outcome
	senders       map[id.UserID]Outcome
	last          []compiled // underrides
	wantsNickname bool
}

type compiled struct {
	conditions []condition
	legacy     bool
	outcome    Outcome
}

// condition is met or not by a message; name is the user's display name in the room.
type condition func(m *Message, name string) bool

// Compile makes rules ready for evaluation.
func (s Ruleset) Compile(user id.UserID) *Rules {
	r := &Rules{user: user, rooms: map[id.RoomID]Outcome{}, senders: map[id.UserID]Outcome{}}
	for i := range s.Override {
		r.first = r.add(r.first, &s.Override[i])
	}
	for i := range s.Content {
		if rule := &s.Content[i]; rule.Enabled {
			pattern := newGlob(rule.Pattern)
			matches := func(m *Message, _ string) bool { return pattern.matchesWords(m.foldedBody()) }
			if rule.Pattern == "" {
				matches = never
			}
			r.first = append(r.first, compiled{[]condition{matches}, legacy(rule), outcomeOf(rule)})
		}
	}
	for i := range s.Room {
		if rule := &s.Room[i]; rule.Enabled {
			r.rooms[id.RoomID(rule.ID)] = outcomeOf(rule)
		}
	}
	for i := range s.Sender {
		if rule := &s.Sender[i]; rule.Enabled {
			r.senders[id.UserID(rule.ID)] = outcomeOf(rule)
		}
	}
	for i := range s.Underride {
		r.last = r.add(r.last, &s.Underride[i])
	}
	return r
}

func (r *Rules) add(list []compiled, rule *Rule) []compiled {
	if !rule.Enabled {
		return list
	}
	c := compiled{legacy: legacy(rule), outcome: outcomeOf(rule)}
	var raw []rawCondition
	if len(rule.Conditions) > 0 && json.Unmarshal(rule.Conditions, &raw) != nil {
		return list // a rule that is not understood matches nothing
	}
	for i := range raw {
		c.conditions = append(c.conditions, raw[i].compile())
		r.wantsNickname = r.wantsNickname || raw[i].Kind == "contains_display_name"
	}
	return append(list, c)
}

func outcomeOf(rule *Rule) Outcome {
	o := Outcome{Actions: rule.Actions}
	var actions []json.RawMessage
	if json.Unmarshal(rule.Actions, &actions) != nil {
		return o
	}
	for _, raw := range actions {
		var tweak struct {
			Name  string `json:"set_tweak"`
			Value *bool  `json:"value"`
		}
		switch {
		case string(raw) == `"notify"`:
			o.Notify = true
		case raw[0] == '{' && json.Unmarshal(raw, &tweak) == nil && tweak.Name == "highlight":
			o.Highlight = tweak.Value == nil || *tweak.Value
		}
	}
	o.Highlight = o.Highlight && o.Notify
	return o
}

// WantsDisplayName says whether Evaluate uses the display name that it is given.
func (r *Rules) WantsDisplayName() bool { return r.wantsNickname }

// Evaluate finds the rule that applies to an event. The display name is the one that the rules' owner has in the
// room; empty if there is none, or WantsDisplayName is false.
func (r *Rules) Evaluate(m *Message, displayName string) Outcome {
	if m.Sender == r.user {
		return Outcome{}
	}
	if o, ok := evaluate(r.first, m, displayName); ok {
		return o
	}
	if o, ok := r.rooms[m.RoomID]; ok {
		return o
	}
	if o, ok := r.senders[m.Sender]; ok {
		return o
	}
	o, _ := evaluate(r.last, m, displayName)
	return o
}

func evaluate(list []compiled, m *Message, displayName string) (Outcome, bool) {
next:
	for i := range list {
		for _, met := range list[i].conditions {
			if !met(m, displayName) {
				continue next
			}
		}
		if list[i].legacy {
			if _, stated := m.lookup(mentionsPath); stated {
				continue
			}
		}
		return list[i].outcome, true
	}
	return Outcome{}, false
}

type rawCondition struct {
	Kind    string          `json:"kind"`
	Key     string          `json:"key"`
	Pattern *string         `json:"pattern"`
	Value   json.RawMessage `json:"value"`
	Is      string          `json:"is"`
}

func never(*Message, string) bool { return false }

func (c *rawCondition) compile() condition {
	path := splitPath(c.Key)
	switch c.Kind {
	case "event_match":
		if c.Pattern == nil {
			return never
		}
		return matchProperty(path, *c.Pattern)
	case "event_property_is":
		want, ok := scalar(c.Value)
		if !ok {
			return never
		}
		return func(m *Message, _ string) bool {
			got, ok := m.lookup(path)
			return ok && isScalar(got) && got == want
		}
	case "event_property_contains":
		want, ok := scalar(c.Value)
		if !ok {
			return never
		}
		return func(m *Message, _ string) bool {
			value, _ := m.lookup(path)
			list, _ := value.([]any)
			return slices.ContainsFunc(list, func(got any) bool { return isScalar(got) && got == want })
		}
	case "contains_display_name":
		return func(m *Message, name string) bool {
			return name != "" && glob{pieces: []string{fold(name)}}.matchesWords(m.foldedBody())
		}
	case "room_member_count":
		return countMembers(c.Is)
	case "sender_notification_permission":
		return func(m *Message, _ string) bool { return m.MayNotify != nil && m.MayNotify(c.Key) }
	}
	return never
}

func matchProperty(path []string, pattern string) condition {
	g := newGlob(pattern)
	if slices.Equal(path, bodyPath) {
		return func(m *Message, _ string) bool {
			if value, ok := m.lookup(path); !ok || !isString(value) {
				return false
			}
			return g.matchesWords(m.foldedBody())
		}
	}
	return func(m *Message, _ string) bool {
		value, _ := m.lookup(path)
		text, ok := value.(string)
		return ok && (text == pattern && !g.joker && len(g.pieces) == 1 || g.matches(fold(text)))
	}
}

func isString(value any) bool {
	_, ok := value.(string)
	return ok
}

// scalar reads a value that properties can be compared with.
func scalar(raw json.RawMessage) (any, bool) {
	if len(raw) == 0 {
		return nil, false
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return nil, false
	}
	return value, isScalar(value)
}

// isScalar says whether a value is none of the compound ones, nor a number that canonical JSON does not have.
func isScalar(value any) bool {
	switch v := value.(type) {
	case nil, string, bool:
		return true
	case json.Number:
		return !strings.ContainsAny(string(v), ".eE")
	}
	return false
}

func countMembers(is string) condition {
	number := strings.TrimLeft(is, "=<>")
	operator := strings.TrimSuffix(is, number)
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || number[0] == '+' {
		return never
	}
	switch operator {
	case "", "==":
		return func(m *Message, _ string) bool { return m.Members == n }
	case "<":
		return func(m *Message, _ string) bool { return m.Members < n }
	case ">":
		return func(m *Message, _ string) bool { return m.Members > n }
	case "<=":
		return func(m *Message, _ string) bool { return m.Members <= n }
	case ">=":
		return func(m *Message, _ string) bool { return m.Members >= n }
	}
	return never
}
