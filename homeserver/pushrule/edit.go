package pushrule

import (
	"encoding/json"
	"errors"
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
	// MaxRulesSize bounds all rules of a user together, in bytes.
	MaxRulesSize = 256 << 10
	// MaxPattern is how long the pattern of a rule or of a condition may be, in bytes.
	MaxPattern = 512
	// MaxConditions is how many conditions a rule may have.
	MaxConditions = 50
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
	if err := errors.Join(rule.check(kind), s.fits(rule.size()-rules[i].size())); err != nil {
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
	at, more := firstOwn(kind), rule.size()
	if old := find(rules, rule.ID); old >= 0 {
		rule.Enabled, at = rules[old].Enabled, old
		more -= rules[old].size()
		rules = slices.Delete(rules, old, old+1)
	} else if s.own() >= MaxRules {
		return fmt.Errorf("%w: no more than %d rules can be kept", ErrInvalid, MaxRules)
	}
	if err := s.fits(more); err != nil {
		return err
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
	if s.own() >= MaxRules || s.fits(rule.size()) != nil {
		return false
	}
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

// size is how many bytes of its owner's a rule keeps.
func (rule *Rule) size() int {
	return len(rule.ID) + len(rule.Pattern) + len(rule.Conditions) + len(rule.Actions)
}

// fits refuses a change by which the rules grow by so many bytes, if that is too much.
func (s *Ruleset) fits(more int) error {
	size := more
	for _, list := range [][]Rule{s.Override, s.Content, s.Room, s.Sender, s.Underride} {
		for i := range list {
			size += list[i].size()
		}
	}
	if more > 0 && size > MaxRulesSize {
		return fmt.Errorf("%w: all rules together may have %d bytes", ErrTooLarge, MaxRulesSize)
	}
	return nil
}

// check refuses what a client would not understand when it gets the rule back.
func (rule *Rule) check(kind string) error {
	if rule.ID == "" || strings.ContainsAny(rule.ID, `/\`) || !utf8.ValidString(rule.ID) {
		return fmt.Errorf("%w: its ID is empty or has a slash in it", ErrInvalid)
	}
	if rule.size() > MaxRuleSize {
		return fmt.Errorf("%w: it is larger than %d bytes", ErrInvalid, MaxRuleSize)
	}
	if len(rule.Pattern) > MaxPattern {
		return fmt.Errorf("%w: its pattern is longer than %d bytes", ErrInvalid, MaxPattern)
	}
	if kind == Content && rule.Pattern == "" {
		return fmt.Errorf("%w: a content rule needs a pattern", ErrInvalid)
	}
	if err := checkConditions(rule.Conditions); err != nil {
		return err
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

func checkConditions(raw json.RawMessage) error {
	var conditions []map[string]json.RawMessage
	if raw != nil && (json.Unmarshal(raw, &conditions) != nil || conditions == nil) {
		return fmt.Errorf("%w: its conditions are not an array of objects", ErrInvalid)
	}
	if len(conditions) > MaxConditions {
		return fmt.Errorf("%w: it has more than %d conditions", ErrInvalid, MaxConditions)
	}
	for _, c := range conditions {
		var kind, pattern string
		if json.Unmarshal(c["kind"], &kind) != nil {
			return fmt.Errorf("%w: a condition has no kind", ErrInvalid)
		}
		if json.Unmarshal(c["pattern"], &pattern) == nil && len(pattern) > MaxPattern {
			return fmt.Errorf("%w: the pattern of a condition is longer than %d bytes", ErrInvalid, MaxPattern)
		}
	}
	return nil
}
