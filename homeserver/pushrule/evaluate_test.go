package pushrule

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
)

const bob id.UserID = "@bob:h"

func message(typ, content string) *Message {
	return &Message{
		Event:   &event.Event{ID: "$e", RoomID: "!r:h", Sender: "@alice:h", Type: typ, Content: json.RawMessage(content)},
		Members: 5,
	}
}

// evaluated is Evaluate with all the work that one event may take.
func (r *Rules) evaluated(m *Message, name string) Outcome {
	work := MaxWork
	return r.Evaluate(m, name, &work)
}

func state(typ, key, content string) *Message {
	m := message(typ, content)
	m.StateKey = &key
	return m
}

// The examples of the specification's sections on conditions, and what follows from their text.
func TestConditions(t *testing.T) {
	topic := `{"topic":%q}`
	tests := []struct {
		condition string
		message   *Message
		want      bool
	}{
		{match("content.topic", "lunc?*"), message("m.room.topic", fmt.Sprintf(topic, "Lunch plans")), true},
		{match("content.topic", "lunc?*"), message("m.room.topic", fmt.Sprintf(topic, "LUNCH")), true},
		{match("content.topic", "lunc?*"), message("m.room.topic", fmt.Sprintf(topic, " lunch")), false},
		{match("content.topic", "lunc?*"), message("m.room.topic", fmt.Sprintf(topic, "lunc")), false},
		{match("content.topic", "lunc?*"), message("m.room.topic", `{"topic":null}`), false},
		{match("content.topic", "*"), message("m.room.topic", `{}`), false},
		{match("content.body", "ex*ple"), message("m.room.message", `{"body":"An example event."}`), true},
		{match("content.body", "ex*ple"), message("m.room.message", `{"body":"exple"}`), true},
		{match("content.body", "ex*ple"), message("m.room.message", `{"body":"An exciting triple-whammy"}`), true},
		{match("content.body", "ex*ple"), message("m.room.message", `{"body":"examples"}`), false},
		{match("content.body", "ex*ple"), message("m.room.message", `{"body":"an apex triple"}`), false},
		{match("content.body", "*"), message("m.room.message", `{"body":7}`), false},
		{match("content.body", "caf?"), message("m.room.message", `{"body":"at the Café"}`), true},
		{match("content.body", "a"), message("m.room.message", `{"body":"ba ab a"}`), true},
		{match("state_key", "*"), message("m.x", `{}`), false},
		{match("state_key", ""), state("m.x", "", `{}`), true},
		{match("sender", "@alice:*"), message("m.x", `{}`), true},
		{property("event_property_is", `content.m\.federate`, "true"), state("m.room.create", "", `{"m.federate":true}`), true},
		{property("event_property_is", `content.m\.federate`, "true"), state("m.room.create", "", `{"m.federate":"true"}`), false},
		{property("event_property_is", `content.m\.federate`, "true"), state("m.room.create", "", `{"m.federate":1}`), false},
		{property("event_property_is", `content.m.federate`, "true"), state("m.room.create", "", `{"m.federate":true}`), false},
		{property("event_property_is", `content.a.b`, "null"), message("m.x", `{"a":{"b":null}}`), true},
		{property("event_property_is", `content.a.b`, "null"), message("m.x", `{"a":{}}`), false},
		{property("event_property_is", `content.a`, "12"), message("m.x", `{"a":12}`), true},
		{property("event_property_is", `content.a`, "{}"), message("m.x", `{"a":{}}`), false},
		{property("event_property_contains", "content.alt_aliases", `"#myroom:example.com"`), message("m.x", `{"alt_aliases":["#somewhere:example.org","#myroom:example.com"]}`), true},
		{property("event_property_contains", "content.alt_aliases", `":example.com"`), message("m.x", `{"alt_aliases":["#myroom:example.com",[],{}]}`), false},
		{property("event_property_contains", "content.alt_aliases", `"x"`), message("m.x", `{"alt_aliases":"x"}`), false},
		{`{"kind":"contains_display_name"}`, message("m.x", `{"body":"oh, the Builder!"}`), true},
		{`{"kind":"contains_display_name"}`, message("m.x", `{"body":"the builders"}`), false},
		{`{"kind":"room_member_count","is":"5"}`, message("m.x", `{}`), true},
		{`{"kind":"room_member_count","is":"==5"}`, message("m.x", `{}`), true},
		{`{"kind":"room_member_count","is":"<5"}`, message("m.x", `{}`), false},
		{`{"kind":"room_member_count","is":">4"}`, message("m.x", `{}`), true},
		{`{"kind":"room_member_count","is":"<=5"}`, message("m.x", `{}`), true},
		{`{"kind":"room_member_count","is":">=6"}`, message("m.x", `{}`), false},
		{`{"kind":"room_member_count","is":"=5"}`, message("m.x", `{}`), false},
		{`{"kind":"room_member_count","is":""}`, message("m.x", `{}`), false},
		{`{"kind":"sender_notification_permission","key":"room"}`, message("m.x", `{}`), false},
		{`{"kind":"unheard_of"}`, message("m.x", `{}`), false},
	}
	for _, test := range tests {
		var set Ruleset
		rule := Rule{ID: "r", Conditions: json.RawMessage("[" + test.condition + "]"), Actions: json.RawMessage(notify)}
		if err := set.Put(Underride, rule, "", ""); err != nil {
			t.Fatal(err)
		}
		if got := set.Compile(bob).evaluated(test.message, "The Builder").Notify; got != test.want {
			t.Errorf("%s on %s: %v", test.condition, test.message.Content, got)
		}
	}
}

func TestDefaultRules(t *testing.T) {
	rules := Default(bob).Compile(bob)
	loud := func(m *Message) *Message {
		m.MayNotify = func(key string) bool { return key == "room" }
		return m
	}
	tests := []struct {
		name              string
		message           *Message
		notify, highlight bool
	}{
		{"message", message("m.room.message", `{"body":"hi","msgtype":"m.text"}`), true, false},
		{"encrypted", message("m.room.encrypted", `{"ciphertext":"x"}`), true, false},
		{"call", message("m.call.invite", `{}`), true, false},
		{"notice", message("m.room.message", `{"body":"hi","msgtype":"m.notice"}`), false, false},
		{"invite", state("m.room.member", string(bob), `{"membership":"invite"}`), true, false},
		{"another's invite", state("m.room.member", "@carol:h", `{"membership":"invite"}`), false, false},
		{"mention", message("m.room.message", `{"body":"hi","m.mentions":{"user_ids":["@bob:h"]}}`), true, true},
		{"mention in an encrypted event", message("m.room.encrypted", `{"m.mentions":{"user_ids":["@bob:h"]}}`), true, true},
		{"name in the text", message("m.room.message", `{"body":"hi @bob:h!"}`), true, true},
		{"name in the text, but mentions are stated", message("m.room.message", `{"body":"hi bob","m.mentions":{}}`), true, false},
		{"room, from the powerful", loud(message("m.room.message", `{"body":"hi","m.mentions":{"room":true}}`)), true, true},
		{"room, from anyone", message("m.room.message", `{"body":"hi","m.mentions":{"room":true}}`), true, false},
		{"room in the text", loud(message("m.room.message", `{"body":"hey @room, hi"}`)), true, true},
		{"tombstone", state("m.room.tombstone", "", `{}`), true, true},
		{"tombstone, not state", message("m.room.tombstone", `{}`), false, false},
		{"reaction", message("m.reaction", `{}`), false, false},
		{"edit", message("m.room.message", `{"body":"hi","m.relates_to":{"rel_type":"m.replace"}}`), false, false},
		{"unknown", message("org.example", `{}`), false, false},
	}
	for _, test := range tests {
		got := rules.evaluated(test.message, "")
		if got.Notify != test.notify || got.Highlight != test.highlight {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
	own := message("m.room.message", `{"body":"bob"}`)
	own.Sender = bob
	if rules.evaluated(own, "").Notify {
		t.Error("a user was notified of their own message")
	}
}

func TestKindsInOrder(t *testing.T) {
	set := Default(bob)
	put := func(kind, ruleID, more string) {
		t.Helper()
		rule := Rule{ID: ruleID, Actions: json.RawMessage(`["notify",{"set_tweak":"` + kind + `"}]`)}
		if more != "" {
			if kind == Content {
				rule.Pattern = more
			} else {
				rule.Conditions = json.RawMessage(more)
			}
		}
		if err := set.Put(kind, rule, "", ""); err != nil {
			t.Fatal(err)
		}
	}
	m := func() *Message { return message("m.room.message", `{"body":"tea time"}`) }
	said := func() string {
		actions := string(set.Compile(bob).evaluated(m(), "").Actions)
		return strings.TrimSuffix(strings.TrimPrefix(actions, `["notify",{"set_tweak":"`), `"}]`)
	}
	for _, step := range []struct{ kind, ruleID, more string }{
		{Underride, "u", ""},
		{Sender, "@alice:h", ""},
		{Room, "!r:h", ""},
		{Content, "c", "tea"},
		{Override, "o", ""},
	} {
		put(step.kind, step.ruleID, step.more)
		if got := said(); got != step.kind {
			t.Errorf("with a rule of kind %s, that of kind %s applied", step.kind, got)
		}
	}
	if err := set.SetEnabled(Override, master, true); err != nil {
		t.Fatal(err)
	}
	if got := said(); got != "[]" {
		t.Errorf("the master rule is on, but %s applied", got)
	}
}

func TestPaths(t *testing.T) {
	for key, want := range map[string]string{
		"a.b": "a|b", `m\.a.b`: "m.a|b", `a\\b`: `a\b`, `a\\.b`: `a\|b`, `a\b`: `a\b`, `a\`: `a\`, "": "", "a.": "a|",
	} {
		if got := strings.Join(splitPath(key), "|"); got != want {
			t.Errorf("%s became %s", key, got)
		}
	}
}

// Rules and messages are strangers' to those who wait for the same processor: whatever they say, the work is bounded.
func TestHostileRulesTakeBoundedTime(t *testing.T) {
	body := strings.Repeat("a", 60_000) + "~a" // the patterns nearly fit
	m := func() *Message {
		return message("m.room.message", `{"body":"`+body+`","list":[`+strings.Repeat("1,", 10_000)+`1]}`)
	}
	took := func(rules *Rules) time.Duration {
		best := time.Hour
		for range 3 {
			began, work := time.Now(), MaxWork
			if got := rules.Evaluate(m(), "", &work); !got.Notify || got.Highlight {
				t.Errorf("of the predefined rules, those for messages do not apply: %+v", got)
			}
			best = min(best, time.Since(began))
		}
		return best
	}
	harmless := Default(bob)
	mentions := property("event_property_is", "content.list", "7") // has the content decoded
	harmless.Override = append(harmless.Override, Rule{ID: "r", Enabled: true, Conditions: json.RawMessage("[" + mentions + "]"), Actions: json.RawMessage(alarm)})
	usual := took(harmless.Compile(bob))
	for name, add := range map[string]func(*Ruleset, int){
		"jokers": func(s *Ruleset, i int) {
			s.Content = append(s.Content, Rule{ID: fmt.Sprint(i), Enabled: true, Pattern: strings.Repeat("?", 4000) + "~", Actions: json.RawMessage(alarm)})
		},
		"stars": func(s *Ruleset, i int) {
			s.Content = append(s.Content, Rule{ID: fmt.Sprint(i), Enabled: true, Pattern: strings.Repeat("a*", 2000) + "~", Actions: json.RawMessage(alarm)})
		},
		"conditions": func(s *Ruleset, i int) {
			condition := property("event_property_contains", "content.list", `2`)
			s.Override = append(s.Override, Rule{ID: fmt.Sprint(i), Enabled: true, Conditions: json.RawMessage("[" + strings.Repeat(condition+",", 40) + condition + "]"), Actions: json.RawMessage(alarm)})
		},
		"names": func(s *Ruleset, i int) {
			condition := match(fmt.Sprintf("content.none%d", i), "?")
			s.Override = append(s.Override, Rule{ID: fmt.Sprint(i), Enabled: true, Conditions: json.RawMessage("[" + strings.Repeat(condition+",", 40) + condition + "]"), Actions: json.RawMessage(alarm)})
		},
	} {
		set := Default(bob)
		for i := range 1000 {
			add(&set, i)
		}
		if got := took(set.Compile(bob)); got > 100*usual {
			t.Errorf("%s take %s, harmless rules %s", name, got, usual)
		}
	}
}

// What a user may spend is for all events of an answer; when it is gone, the predefined rules are left.
func TestWorkIsSpent(t *testing.T) {
	set := Default(bob)
	if err := set.Put(Content, Rule{ID: "tea", Pattern: "t?a", Actions: json.RawMessage(alarm)}, "", ""); err != nil {
		t.Fatal(err)
	}
	rules, m, work := set.Compile(bob), message("m.room.message", `{"body":"tea"}`), Work(200)
	highlights := 0
	for range 20 {
		o := rules.Evaluate(m, "", &work)
		if !o.Notify {
			t.Fatal("no rule applies")
		}
		if o.Highlight {
			highlights++
		}
	}
	if highlights == 0 || highlights == 20 || work != 0 {
		t.Errorf("%d of 20 were highlighted, %d steps are left", highlights, work)
	}
	if !rules.Searching() || Default(bob).Compile(bob).Searching() {
		t.Error("only rules of the user's own count as searching")
	}
}

func BenchmarkEvaluateDefaults(b *testing.B) {
	rules := Default(bob).Compile(bob)
	m := message("m.room.message", `{"body":"a message of the usual length, I would say","msgtype":"m.text"}`)
	for b.Loop() {
		if !rules.evaluated(m, "The Builder").Notify {
			b.Fatal("no notification")
		}
	}
}

// TestComposedOrNot: a text is found however its letters are composed.
func TestComposedOrNot(t *testing.T) {
	const composed, apart = "Jos\u00e9", "JOSE\u0301"
	for _, pair := range [][2]string{{composed, composed}, {composed, apart}, {apart, composed}, {apart, apart}} {
		sought, said := pair[0], pair[1]
		for name, rules := range map[string]*Rules{
			"a name":     Ruleset{Override: []Rule{rule(`{"kind":"contains_display_name"}`)}}.Compile(bob),
			"a keyword":  Ruleset{Content: []Rule{{ID: "k", Enabled: true, Pattern: sought, Actions: json.RawMessage(`["notify"]`)}}}.Compile(bob),
			"a pattern":  Ruleset{Override: []Rule{rule(match("content.body", sought[:2]+"*"+sought[3:]))}}.Compile(bob),
			"a property": Ruleset{Override: []Rule{rule(match("content.topic", "hello "+sought))}}.Compile(bob),
		} {
			if m := message("m.x", fmt.Sprintf(`{"body":"hello %s!","topic":"hello %s"}`, said, said)); !rules.evaluated(m, sought).Notify {
				t.Errorf("%s %q is not found in %q", name, sought, said)
			}
		}
	}
}

func rule(condition string) Rule {
	return Rule{ID: "r", Enabled: true, Conditions: json.RawMessage("[" + condition + "]"), Actions: json.RawMessage(`["notify"]`)}
}
