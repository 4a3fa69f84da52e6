package pushrule

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func ids(rules []Rule) string {
	var out []string
	for _, r := range rules {
		if !r.Default {
			out = append(out, r.ID)
		}
	}
	return strings.Join(out, " ")
}

func own(ruleID string) Rule { return Rule{ID: ruleID, Actions: json.RawMessage(notify)} }

func TestPutOrders(t *testing.T) {
	set := Default(bob)
	for _, step := range []struct{ ruleID, before, after, want string }{
		{"a", "", "", "a"},
		{"b", "", "", "b a"},
		{"c", "a", "", "b c a"},
		{"d", "", "b", "b d c a"},
		{"b", "", "", "b d c a"},
		{"b", "", "a", "d c a b"},
		{"a", "d", "c", "a d c b"},
	} {
		if err := set.Put(Override, own(step.ruleID), step.before, step.after); err != nil {
			t.Fatal(err)
		}
		if got := ids(set.Override); got != step.want {
			t.Errorf("after %+v: %s", step, got)
		}
		if set.Override[0].ID != master {
			t.Error("something stands above the master rule")
		}
	}
	for _, neighbour := range []string{"nobody", master} {
		if err := set.Put(Override, own("e"), neighbour, ""); !errors.Is(err, ErrNoNeighbour) {
			t.Errorf("beside %s: %v", neighbour, err)
		}
	}
	if got := ids(set.Override); got != "a d c b" {
		t.Errorf("a refused rule changed them to %s", got)
	}
}

func TestPutRefuses(t *testing.T) {
	set := Default(bob)
	for name, put := range map[string]func() error{
		"unknown kind":     func() error { return set.Put("postcontent", own("a"), "", "") },
		"server's name":    func() error { return set.Put(Override, own(".a"), "", "") },
		"slash":            func() error { return set.Put(Override, own("a/b"), "", "") },
		"backslash":        func() error { return set.Put(Override, own(`a\b`), "", "") },
		"no pattern":       func() error { return set.Put(Content, own("a"), "", "") },
		"no actions":       func() error { return set.Put(Override, Rule{ID: "a"}, "", "") },
		"null actions":     func() error { return set.Put(Override, Rule{ID: "a", Actions: json.RawMessage("null")}, "", "") },
		"number as action": func() error { return set.Put(Override, Rule{ID: "a", Actions: json.RawMessage("[1]")}, "", "") },
		"strange action":   func() error { return set.Put(Override, Rule{ID: "a", Actions: json.RawMessage(`[{"x":1}]`)}, "", "") },
		"bad conditions": func() error {
			return set.Put(Override, Rule{ID: "a", Actions: json.RawMessage("[]"), Conditions: json.RawMessage(`[{"key":"x"}]`)}, "", "")
		},
		"too large": func() error {
			return set.Put(Override, Rule{ID: "a", Actions: json.RawMessage(`["` + strings.Repeat("x", MaxRuleSize-6) + `"]`)}, "", "")
		},
		"long pattern": func() error {
			return set.Put(Content, Rule{ID: "a", Actions: json.RawMessage("[]"), Pattern: strings.Repeat("x", MaxPattern+1)}, "", "")
		},
		"long pattern in a condition": func() error {
			return set.Put(Override, Rule{ID: "a", Actions: json.RawMessage("[]"), Conditions: conditions(1, MaxPattern+1)}, "", "")
		},
		"many conditions": func() error {
			return set.Put(Override, Rule{ID: "a", Actions: json.RawMessage("[]"), Conditions: conditions(MaxConditions+1, 1)}, "", "")
		},
	} {
		if err := put(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := set.Put(Content, Rule{ID: "a", Actions: json.RawMessage("[]"), Pattern: strings.Repeat("x", MaxPattern)}, "", ""); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if err := set.Put(Override, Rule{ID: "a", Actions: json.RawMessage("[]"), Conditions: conditions(MaxConditions, 1)}, "", ""); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if err := set.Delete(Override, "a"); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < MaxRules; i++ {
		if err := set.Put(Room, own(fmt.Sprintf("!%d:h", i)), "", ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := set.Put(Sender, own("@a:h"), "", ""); !errors.Is(err, ErrInvalid) {
		t.Errorf("one rule too many: %v", err)
	}
	if err := set.Put(Room, own("!1:h"), "", ""); err != nil {
		t.Errorf("replacing a rule when there is no room for more: %v", err)
	}
}

// conditions are so many, each with a pattern of a length.
func conditions(n, length int) json.RawMessage {
	one := match("type", strings.Repeat("x", length))
	return json.RawMessage("[" + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + "]")
}

func TestAllRulesTogetherHaveALimit(t *testing.T) {
	set := Default(bob)
	large := json.RawMessage(`["` + strings.Repeat("x", 4000) + `"]`)
	var err error
	kept := 0
	for ; err == nil; kept++ {
		err = set.Put(Override, Rule{ID: fmt.Sprint(kept), Actions: large}, "", "")
	}
	if !errors.Is(err, ErrTooLarge) || kept < 50 {
		t.Fatalf("after %d rules: %v", kept, err)
	}
	if err := set.SetActions(Underride, ".m.rule.message", large); !errors.Is(err, ErrTooLarge) {
		t.Errorf("larger actions: %v", err)
	}
	if set.CopyRoom("!a:h", "!b:h") {
		t.Error("a rule was copied into rules that are full")
	}
	if err := set.Put(Override, Rule{ID: "1", Actions: json.RawMessage("[]")}, "", ""); err != nil {
		t.Errorf("a smaller rule instead: %v", err)
	}
	if err := set.Put(Sender, own("@a:h"), "", ""); err != nil {
		t.Errorf("there is room again: %v", err)
	}
}

func TestEdit(t *testing.T) {
	set := Default(bob)
	if err := set.SetActions(Underride, ".m.rule.message", json.RawMessage(`["dont_notify"]`)); err != nil {
		t.Fatal(err)
	}
	if err := set.SetEnabled(Override, master, true); err != nil {
		t.Fatal(err)
	}
	if err := set.Put(Room, own("!old:h"), "", ""); err != nil {
		t.Fatal(err)
	}
	if !set.CopyRoom("!old:h", "!new:h") || set.CopyRoom("!old:h", "!new:h") || set.CopyRoom("!other:h", "!x:h") {
		t.Error("a rule is copied once, if there is one")
	}
	raw, err := set.JSON()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Parse(bob, raw)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := back.JSON(); err != nil || string(again) != string(raw) {
		t.Errorf("%v, came back as\n%s\nwas\n%s", err, again, raw)
	}
	if err := back.Delete(Room, "!new:h"); err != nil || ids(back.Room) != "!old:h" {
		t.Errorf("%v, left %s", err, ids(back.Room))
	}
	for name, err := range map[string]error{
		"unknown rule":         back.Delete(Room, "!new:h"),
		"unknown kind":         back.SetEnabled("postcontent", "x", true),
		"actions of no rule":   back.SetActions(Room, "!new:h", json.RawMessage("[]")),
		"enabling what is not": back.SetEnabled(Room, "!new:h", true),
	} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := back.Delete(Override, master); !errors.Is(err, ErrInvalid) {
		t.Errorf("deleting a predefined rule: %v", err)
	}
	if err := back.SetActions(Room, "!old:h", json.RawMessage("{}")); !errors.Is(err, ErrInvalid) {
		t.Errorf("setting what is not actions: %v", err)
	}
}

// What a rule is predefined as may change; what a user made of it stays.
func TestParseMergesPredefined(t *testing.T) {
	set, err := Parse(bob, json.RawMessage(`{"global":{"override":[
		{"rule_id":"mine","enabled":true,"actions":[],"conditions":[]},
		{"rule_id":".m.rule.gone","default":true,"enabled":true,"actions":[],"conditions":[]},
		{"rule_id":".m.rule.tombstone","default":true,"enabled":false,"actions":["notify"],"conditions":[{"kind":"old"}]}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Override) != len(Default(bob).Override)+1 || set.Override[1].ID != "mine" {
		t.Errorf("got %+v", set.Override)
	}
	got, err := set.Get(Override, ".m.rule.tombstone")
	if err != nil || got.Enabled || string(got.Actions) != notify || strings.Contains(string(got.Conditions), "old") {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := Parse(bob, json.RawMessage(`[]`)); err == nil {
		t.Error("an array was read as push rules")
	}
}

// Whatever was stored, what is shown are arrays.
func TestJSONHasNoNull(t *testing.T) {
	set, err := Parse(bob, json.RawMessage(`{"global":{"room":null}}`))
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := set.JSON(); err != nil || strings.Contains(string(raw), "null") {
		t.Errorf("%s, %v", raw, err)
	}
}
