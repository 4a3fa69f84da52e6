package pushrule

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/securecomm/securecomm/homeserver/id"
)

// Limits of a user's own rules.
const (
	// MaxRules is how many rules of their own a user may have.
	MaxRules = 1000
	// MaxRuleSize bounds the name, pattern, conditions and actions of a rule together, in bytes.
	MaxRuleSize = 4096
)

// Get finds a rule.
func (s *Ruleset) Get(kind, ruleID string) (Rule, error) {
	rules, i, err := s.find(kind, ruleID)
	if err != nil {
		return Rule{}, err
	}
	return rules[i], nil
}

// Delete removes one of the user's own rules.
func (s *Ruleset) Delete(kind, ruleID string) error {
	rules, i, err := s.find(kind, ruleID)
	if err != nil {
		return err
	}
	if rules[i].Default {
		return fmt.Errorf("%w: a predefined rule cannot be deleted", ErrInvalid)
	}
	*s.kind(kind) = slices.Delete(rules, i, i+1)
	return nil
}

// SetEnabled switches a rule on or off.
func (s *Ruleset) SetEnabled(kind, ruleID string, enabled bool) error {
	rules, i, err := s.find(kind, ruleID)
	if err == nil {
		rules[i].Enabled = enabled
	}
	return err
}

// SetActions replaces the actions of a rule.
func (s *Ruleset) SetActions(kind, ruleID string, actions json.RawMessage) error {
	rules, i, err := s.find(kind, ruleID)
	if err != nil {
		return err
	}
	rule := rules[i]
	rule.Actions = actions
	if err := rule.check(kind); err != nil {
		return err
	}
	rules[i] = rule
	return nil
}

func (s *Ruleset) find(kind, ruleID string) ([]Rule, int, error) {
	rules := s.kind(kind)
	if rules == nil {
		return nil, 0, fmt.Errorf("%w: no kind %.20q", ErrNotFound, kind)
	}
	i := find(*rules, ruleID)
	if i < 0 {
		return nil, 0, ErrNotFound
	}
	return *rules, i, nil
}

// Put adds or replaces one of the user's own rules, next to the rule named by before (which is then the next less
// important one) or after, which may be empty. A new rule is enabled, and the most important one of its kind if it
// is not put beside another.
func (s *Ruleset) Put(kind string, rule Rule, before, after string) error {
	list := s.kind(kind)
	if list == nil {
		return fmt.Errorf("%w: no kind %.20q", ErrInvalid, kind)
	}
	if strings.HasPrefix(rule.ID, ".") {
		return fmt.Errorf("%w: rules whose ID begins with a dot are the server's", ErrInvalid)
	}
	rule.Default, rule.Enabled = false, true
	if kind != Content {
		rule.Pattern = ""
	}
	if kind != Override && kind != Underride {
		rule.Conditions = nil
	} else if len(rule.Conditions) == 0 {
		rule.Conditions = json.RawMessage("[]")
	}
	if err := rule.check(kind); err != nil {
		return err
	}
	rules := slices.Clone(*list)
	at := firstOwn(kind)
	if old := find(rules, rule.ID); old >= 0 {
		rule.Enabled, at = rules[old].Enabled, old
		rules = slices.Delete(rules, old, old+1)
	} else if s.own() >= MaxRules {
		return fmt.Errorf("%w: no more than %d rules can be kept", ErrInvalid, MaxRules)
	}
	if before != "" || after != "" {
		neighbour, offset := before, 0
		if before == "" {
			neighbour, offset = after, 1
		}
		i := find(rules, neighbour)
		if i < 0 || rules[i].Default {
			return ErrNoNeighbour
		}
		at = i + offset
	}
	*list = slices.Insert(rules, at, rule)
	return nil
}

// CopyRoom gives a room the rules that the user has for another one, its predecessor; false if there is nothing to copy.
func (s *Ruleset) CopyRoom(from, to id.RoomID) bool {
	i := find(s.Room, string(from))
	if i < 0 || find(s.Room, string(to)) >= 0 {
		return false
	}
	rule := s.Room[i]
	rule.ID = string(to)
	s.Room = slices.Insert(slices.Clone(s.Room), i, rule)
	return true
}

// own is how many rules are the user's own.
func (s *Ruleset) own() (n int) {
	for _, list := range [][]Rule{s.Override, s.Content, s.Room, s.Sender, s.Underride} {
		for i := range list {
			if !list[i].Default {
				n++
			}
		}
	}
	return n
}

// check refuses what a client would not understand when it gets the rule back.
func (rule *Rule) check(kind string) error {
	if rule.ID == "" || strings.ContainsAny(rule.ID, `/\`) || !utf8.ValidString(rule.ID) {
		return fmt.Errorf("%w: its ID is empty or has a slash in it", ErrInvalid)
	}
	if len(rule.ID)+len(rule.Pattern)+len(rule.Conditions)+len(rule.Actions) > MaxRuleSize {
		return fmt.Errorf("%w: it is larger than %d bytes", ErrInvalid, MaxRuleSize)
	}
	if kind == Content && rule.Pattern == "" {
		return fmt.Errorf("%w: a content rule needs a pattern", ErrInvalid)
	}
	var conditions []map[string]json.RawMessage
	if rule.Conditions != nil && (json.Unmarshal(rule.Conditions, &conditions) != nil || conditions == nil) {
		return fmt.Errorf("%w: its conditions are not an array of objects", ErrInvalid)
	}
	for _, c := range conditions {
		var kind string
		if json.Unmarshal(c["kind"], &kind) != nil {
			return fmt.Errorf("%w: a condition has no kind", ErrInvalid)
		}
	}
	var actions []any
	if json.Unmarshal(rule.Actions, &actions) != nil || actions == nil {
		return fmt.Errorf("%w: its actions are not an array", ErrInvalid)
	}
	for _, action := range actions {
		switch a := action.(type) {
		case string:
		case map[string]any:
			if _, ok := a["set_tweak"].(string); !ok {
				return fmt.Errorf("%w: one of its actions is unknown", ErrInvalid)
			}
		default:
			return fmt.Errorf("%w: one of its actions is neither a string nor an object", ErrInvalid)
		}
	}
	return nil
}
