package pushrule

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/securecomm/securecomm/homeserver/id"
)

// AccountDataType is the type of account data that holds a user's rules.
const AccountDataType = "m.push_rules"

// The kinds of rules, in the order in which they are asked.
const (
	Override  = "override"
	Content   = "content"
	Room      = "room"
	Sender    = "sender"
	Underride = "underride"
)

// Rule is a push rule as clients see it.
type Rule struct {
	ID         string          `json:"rule_id"`
	Default    bool            `json:"default"`
	Enabled    bool            `json:"enabled"`
	Conditions json.RawMessage `json:"conditions,omitempty"` // an array; of overrides and underrides only
	Pattern    string          `json:"pattern,omitempty"`    // of content rules only
	Actions    json.RawMessage `json:"actions"`              // an array
}

// Ruleset is all rules of a user. Within a kind, earlier rules are more important.
type Ruleset struct {
	Override  []Rule `json:"override"`
	Content   []Rule `json:"content"`
	Room      []Rule `json:"room"`
	Sender    []Rule `json:"sender"`
	Underride []Rule `json:"underride"`
}

// Parse reads a user's rules from the content of AccountDataType, which may be nil. The predefined rules
// are those of this version of the server; only their state and actions are the user's.
func Parse(user id.UserID, content json.RawMessage) (Ruleset, error) {
	s := Default(user)
	if content == nil {
		return s, nil
	}
	var stored struct {
		Global Ruleset `json:"global"`
	}
	if err := json.Unmarshal(content, &stored); err != nil {
		return s, fmt.Errorf("push rules of %s: %w", user, err)
	}
	for _, kind := range []string{Override, Content, Room, Sender, Underride} {
		mine := *s.kind(kind)
		var own []Rule
		for _, rule := range *stored.Global.kind(kind) {
			if !rule.Default {
				own = append(own, rule)
			} else if i := find(mine, rule.ID); i >= 0 {
				mine[i].Enabled, mine[i].Actions = rule.Enabled, rule.Actions
			}
		}
		first := firstOwn(kind)
		merged := make([]Rule, 0, len(mine)+len(own))
		merged = append(merged, mine[:first]...)
		merged = append(merged, own...)
		*s.kind(kind) = append(merged, mine[first:]...)
	}
	return s, nil
}

// firstOwn is where a user's own rules of a kind begin: only the master rule stands above them.
func firstOwn(kind string) int {
	if kind == Override {
		return 1
	}
	return 0
}

// JSON is the rules as the content of AccountDataType and the answer of GET /pushrules/.
func (s Ruleset) JSON() (json.RawMessage, error) {
	raw, err := json.Marshal(map[string]Ruleset{"global": s})
	if err != nil {
		return nil, fmt.Errorf("encode push rules: %w", err)
	}
	return raw, nil
}

// kind is the rules of a kind; nil if there is no such kind.
func (s *Ruleset) kind(kind string) *[]Rule {
	switch kind {
	case Override:
		return &s.Override
	case Content:
		return &s.Content
	case Room:
		return &s.Room
	case Sender:
		return &s.Sender
	case Underride:
		return &s.Underride
	}
	return nil
}

func find(rules []Rule, ruleID string) int {
	for i := range rules {
		if rules[i].ID == ruleID {
			return i
		}
	}
	return -1
}

var (
	// ErrNotFound means that there is no such rule or kind of rules.
	ErrNotFound = errors.New("there is no such push rule")
	// ErrInvalid means that a rule does not have the form that its kind needs.
	ErrInvalid = errors.New("not a valid push rule")
	// ErrTooLarge means that the rules of a user would take too much room.
	ErrTooLarge = errors.New("too many push rules")
	// ErrNoNeighbour means that a rule was to be put beside one that the user does not have.
	ErrNoNeighbour = errors.New("the rule given as before or after is not one of the user's own")
)
