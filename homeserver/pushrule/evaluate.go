package pushrule

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/securecomm/securecomm/homeserver/glob"
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
	searching     bool
}

type compiled struct {
	conditions []condition
	predefined bool
	legacy     bool
	outcome    Outcome
}

// Work is how much is done for the rules of users' own, in steps of about a nanosecond: what it takes to compare a byte.
// Once none is left, such rules apply to nothing; the predefined ones always do.
type Work int

// MaxWork is the most that is done for one event: a thousand plain keywords in a text of 8 KB, or 17 patterns of 64
// characters in one of 60 KB.
const MaxWork Work = 1 << 20

// look is one evaluation.
type look struct {
	*Message
	name string // the user's display name in the room
	free bool   // the rule is a predefined one
	left Work
}

// spend takes from what may be done; false if there is not so much.
func (l *look) spend(steps int) bool {
	if l.free {
		return true
	}
	enough := l.left >= Work(steps)
	l.left = max(l.left-Work(steps), 0)
	return enough
}

// condition is met or not by a message.
type condition func(l *look) bool

// Compile makes rules ready for evaluation.
func (s Ruleset) Compile(user id.UserID) *Rules {
	r := &Rules{user: user, rooms: map[id.RoomID]Outcome{}, senders: map[id.UserID]Outcome{}}
	for i := range s.Override {
		r.first = r.add(r.first, &s.Override[i])
	}
	for i := range s.Content {
		if rule := &s.Content[i]; rule.Enabled {
			pattern := glob.New(glob.Fold(rule.Pattern))
			matches := func(l *look) bool { return l.says(pattern) }
			if rule.Pattern == "" {
				matches = never
			}
			r.searching = r.searching || !rule.Default
			r.first = append(r.first, compiled{[]condition{matches}, rule.Default, legacy(rule), outcomeOf(rule)})
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
	c := compiled{predefined: rule.Default, legacy: legacy(rule), outcome: outcomeOf(rule)}
	var raw []rawCondition
	if len(rule.Conditions) > 0 && json.Unmarshal(rule.Conditions, &raw) != nil {
		return list // a rule that is not understood matches nothing
	}
	for i := range raw {
		c.conditions = append(c.conditions, raw[i].compile())
		r.wantsNickname = r.wantsNickname || raw[i].Kind == "contains_display_name"
		r.searching = r.searching || !rule.Default
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

// Searching says whether there are rules of the user's own that look into events, so that Evaluate takes more time than
// may be spent where others wait.
func (r *Rules) Searching() bool { return r.searching }

// Evaluate finds the rule that applies to an event. The display name is the one that the rules' owner has in the
// room; empty if there is none, or WantsDisplayName is false. What is done is taken from work, never more than MaxWork.
func (r *Rules) Evaluate(m *Message, displayName string, work *Work) Outcome {
	if m.Sender == r.user {
		return Outcome{}
	}
	granted := min(*work, MaxWork)
	l := &look{Message: m, name: displayName, left: granted}
	defer func() { *work -= granted - l.left }()
	if o, ok := l.evaluate(r.first); ok {
		return o
	}
	if o, ok := r.rooms[m.RoomID]; ok {
		return o
	}
	if o, ok := r.senders[m.Sender]; ok {
		return o
	}
	o, _ := l.evaluate(r.last)
	return o
}

func (l *look) evaluate(list []compiled) (Outcome, bool) {
next:
	for i := range list {
		if l.free = list[i].predefined; !l.spend(1) {
			continue
		}
		for _, met := range list[i].conditions {
			if !met(l) {
				continue next
			}
		}
		if list[i].legacy {
			if _, stated := l.lookup(mentionsPath); stated {
				continue
			}
		}
		return list[i].outcome, true
	}
	return Outcome{}, false
}

// find looks a property up.
func (l *look) find(path []string) (any, bool) {
	if !l.spend(l.lookupCost(path)) {
		return nil, false
	}
	return l.lookup(path)
}

// says looks for a pattern in the text of the message.
func (l *look) says(pattern glob.Pattern) bool {
	return l.spend(pattern.Cost(len(l.Content))) && pattern.MatchesWords(l.foldedBody(), l.spend)
}

type rawCondition struct {
	Kind    string          `json:"kind"`
	Key     string          `json:"key"`
	Pattern *string         `json:"pattern"`
	Value   json.RawMessage `json:"value"`
	Is      string          `json:"is"`
}

func never(*look) bool { return false }

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
		return func(l *look) bool {
			got, ok := l.find(path)
			return ok && isScalar(got) && got == want
		}
	case "event_property_contains":
		want, ok := scalar(c.Value)
		if !ok {
			return never
		}
		return func(l *look) bool {
			value, _ := l.find(path)
			list, _ := value.([]any)
			return l.spend(stepsOfMember*len(list)) && slices.ContainsFunc(list, func(got any) bool { return isScalar(got) && got == want })
		}
	case "contains_display_name":
		return func(l *look) bool { return l.name != "" && l.says(glob.Text(glob.Fold(l.name))) }
	case "room_member_count":
		return countMembers(c.Is)
	case "sender_notification_permission":
		return func(m *look) bool { return m.MayNotify != nil && m.MayNotify(c.Key) }
	}
	return never
}

// Steps of a comparison.
const (
	stepsOfMember = 8 // with a member of a list
	stepsOfFold   = 1 // to fold a byte
	// stepsOfLetter are those to fold a byte where letters may have to be composed.
	stepsOfLetter = 16
)

// foldCost is how many steps it takes to fold a text.
func foldCost(text string) int {
	if strings.IndexFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) < 0 {
		return stepsOfFold * len(text)
	}
	return stepsOfLetter * len(text)
}

func matchProperty(path []string, pattern string) condition {
	g := glob.New(glob.Fold(pattern))
	if slices.Equal(path, bodyPath) {
		return func(l *look) bool {
			value, ok := l.find(path)
			return ok && isString(value) && l.says(g)
		}
	}
	return func(l *look) bool {
		value, _ := l.find(path)
		text, ok := value.(string)
		switch {
		case !ok:
			return false
		case g.Plain() && text == pattern:
			return true
		}
		return l.spend(foldCost(text)+g.Cost(len(text))) && g.Matches(glob.Fold(text))
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
		return func(m *look) bool { return m.Members == n }
	case "<":
		return func(m *look) bool { return m.Members < n }
	case ">":
		return func(m *look) bool { return m.Members > n }
	case "<=":
		return func(m *look) bool { return m.Members <= n }
	case ">=":
		return func(m *look) bool { return m.Members >= n }
	}
	return never
}
