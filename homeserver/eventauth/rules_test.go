package eventauth_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/eventauth/roomtest"
	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	alice id.UserID = "@alice:one" // creator
	bob   id.UserID = "@bob:one"
	carol id.UserID = "@carol:two"
	dave  id.UserID = "@dave:three" // never in the room
)

// columns are the versions that brought a new numbering.
var columns = []id.RoomVersion{"1", "3", "6", "7", "8", "10", "12"}

const (
	ok   = "ok"
	none = "" // the case does not exist in the version
)

func state(sender id.UserID, typ, content string) roomtest.Event {
	return roomtest.Event{Type: typ, StateKey: roomtest.Key(""), Sender: sender, Content: content}
}

func levels(sender id.UserID, content string) roomtest.Event {
	return state(sender, event.TypePowerLevels, content)
}

func joinRule(rule string) roomtest.Event {
	return state(alice, event.TypeJoinRules, fmt.Sprintf(`{"join_rule":%q}`, rule))
}

func member(sender, target id.UserID, membership string) roomtest.Event {
	return roomtest.Event{Type: event.TypeMember, StateKey: roomtest.Key(string(target)), Sender: sender, Content: fmt.Sprintf(`{"membership":%q}`, membership)}
}

func message(sender id.UserID) roomtest.Event {
	return roomtest.Event{Type: "m.room.message", Sender: sender, Content: `{}`}
}

// room is a public room of alice (in older versions with level 100), bob (50) and carol (0).
func room(v *event.Version, before ...roomtest.Event) *roomtest.Branch {
	b := roomtest.New(v, alice, "")
	b.Must(member(alice, alice, "join"))
	b.Must(levels(alice, levelsOf(v, "")))
	b.Must(joinRule("public"))
	b.Must(member(bob, bob, "join"))
	b.Must(member(carol, carol, "join"))
	for _, e := range before {
		b.Must(e)
	}
	return b
}

// levelsOf is the content of the room's power levels, with more members.
func levelsOf(v *event.Version, more string) string {
	users := `"@bob:one":50`
	if !v.PrivilegedCreators {
		users += `,"@alice:one":100`
	}
	if more != "" {
		more = "," + more
	}
	return `{"users":{` + users + `}` + more + `}`
}

type ruleCase struct {
	what   string
	before func(v *event.Version) []roomtest.Event
	event  func(v *event.Version) roomtest.Event
	rules  [7]string // by columns
}

func always(e roomtest.Event) func(*event.Version) roomtest.Event {
	return func(*event.Version) roomtest.Event { return e }
}

func after(events ...roomtest.Event) func(*event.Version) []roomtest.Event {
	return func(*event.Version) []roomtest.Event { return events }
}

// all is the same answer in all columns.
func all(rule string) [7]string { return [7]string{rule, rule, rule, rule, rule, rule, rule} }

var memberCases = []ruleCase{
	{"no membership", nil, always(roomtest.Event{Type: event.TypeMember, StateKey: roomtest.Key(string(carol)), Sender: carol, Content: `{}`}), [7]string{"5.1", "5.1", "4.1", "4.1", "4.1", "4.1", "5.1"}},
	{"no state key", nil, always(roomtest.Event{Type: event.TypeMember, Sender: carol, Content: `{"membership":"join"}`}), [7]string{"5.1", "5.1", "4.1", "4.1", "4.1", "4.1", "5.1"}},
	{"join a public room", nil, always(member(dave, dave, "join")), all(ok)},
	{"join for another", nil, always(member(bob, dave, "join")), [7]string{"5.2.2", "5.2.2", "4.2.2", "4.2.2", "4.3.2", "4.3.2", "5.3.2"}},
	{"join when banned", after(member(alice, dave, "ban")), always(member(dave, dave, "join")), [7]string{"5.2.3", "5.2.3", "4.2.3", "4.2.3", "4.3.3", "4.3.3", "5.3.3"}},
	{"join uninvited", after(joinRule("invite")), always(member(dave, dave, "join")), [7]string{"5.2.6", "5.2.6", "4.2.6", "4.2.6", "4.3.7", "4.3.7", "5.3.7"}},
	{"join invited", after(joinRule("invite"), member(bob, dave, "invite")), always(member(dave, dave, "join")), all(ok)},
	{"join invited to a knock room", after(joinRule("knock"), member(bob, dave, "invite")), always(member(dave, dave, "join")), [7]string{"5.2.6", "5.2.6", "4.2.6", ok, ok, ok, ok}},
	{"join again in a restricted room", after(joinRule("restricted")), always(member(carol, carol, "join")), [7]string{"5.2.6", "5.2.6", "4.2.6", "4.2.6", ok, ok, ok}},
	{"join restricted without a name", after(joinRule("restricted")), always(member(dave, dave, "join")), [7]string{"5.2.6", "5.2.6", "4.2.6", "4.2.6", "4.3.5.2", "4.3.5.2", "5.3.5.2"}},
	{"join restricted by a member", after(joinRule("restricted")), always(via(dave, carol)), [7]string{"5.2.6", "5.2.6", "4.2.6", "4.2.6", ok, ok, ok}},
	{"join restricted by a stranger", after(joinRule("restricted")), always(via(dave, "@eve:two")), [7]string{"5.2.6", "5.2.6", "4.2.6", "4.2.6", "4.3.5.2", "4.3.5.2", "5.3.5.2"}},
	{"join restricted by one who may not invite", func(v *event.Version) []roomtest.Event {
		return []roomtest.Event{joinRule("restricted"), levels(alice, levelsOf(v, `"invite":50`))}
	}, always(via(dave, carol)), [7]string{"5.2.6", "5.2.6", "4.2.6", "4.2.6", "4.3.5.2", "4.3.5.2", "5.3.5.2"}},
	{"join knock_restricted", after(joinRule("knock_restricted")), always(via(dave, carol)), [7]string{"5.2.6", "5.2.6", "4.2.6", "4.2.6", "4.3.7", ok, ok}},
	{"invite", nil, always(member(carol, dave, "invite")), all(ok)},
	{"invite from outside", nil, always(member(dave, "@eve:two", "invite")), [7]string{"5.3.2", "5.3.2", "4.3.2", "4.3.2", "4.4.2", "4.4.2", "5.4.2"}},
	{"invite who is there", nil, always(member(bob, carol, "invite")), [7]string{"5.3.3", "5.3.3", "4.3.3", "4.3.3", "4.4.3", "4.4.3", "5.4.3"}},
	{"invite without power", func(v *event.Version) []roomtest.Event {
		return []roomtest.Event{levels(alice, levelsOf(v, `"invite":51`))}
	}, always(member(bob, dave, "invite")), [7]string{"5.3.5", "5.3.5", "4.3.5", "4.3.5", "4.4.5", "4.4.5", "5.4.5"}},
	{"leave", nil, always(member(carol, carol, "leave")), all(ok)},
	{"leave twice", after(member(carol, carol, "leave")), always(member(carol, carol, "leave")), [7]string{"5.4.1", "5.4.1", "4.4.1", "4.4.1", "4.5.1", "4.5.1", "5.5.1"}},
	{"kick from outside", nil, always(member(dave, carol, "leave")), [7]string{"5.4.2", "5.4.2", "4.4.2", "4.4.2", "4.5.2", "4.5.2", "5.5.2"}},
	{"kick", nil, always(member(bob, carol, "leave")), all(ok)},
	{"kick one's better", nil, always(member(bob, alice, "leave")), [7]string{"5.4.5", "5.4.5", "4.4.5", "4.4.5", "4.5.5", "4.5.5", "5.5.5"}},
	{"unban without power", after(member(alice, dave, "ban")), always(member(carol, dave, "leave")), [7]string{"5.4.3", "5.4.3", "4.4.3", "4.4.3", "4.5.3", "4.5.3", "5.5.3"}},
	{"unban", after(member(alice, dave, "ban")), always(member(bob, dave, "leave")), all(ok)},
	{"ban from outside", nil, always(member(dave, carol, "ban")), [7]string{"5.5.1", "5.5.1", "4.5.1", "4.5.1", "4.6.1", "4.6.1", "5.6.1"}},
	{"ban without power", nil, always(member(carol, dave, "ban")), [7]string{"5.5.3", "5.5.3", "4.5.3", "4.5.3", "4.6.3", "4.6.3", "5.6.3"}},
	{"ban oneself", nil, always(member(bob, bob, "ban")), [7]string{"5.5.3", "5.5.3", "4.5.3", "4.5.3", "4.6.3", "4.6.3", "5.6.3"}},
	{"knock", after(joinRule("knock")), always(member(dave, dave, "knock")), [7]string{"5.6", "5.6", "4.6", ok, ok, ok, ok}},
	{"knock where none is wanted", nil, always(member(dave, dave, "knock")), [7]string{"5.6", "5.6", "4.6", "4.6.1", "4.7.1", "4.7.1", "5.7.1"}},
	{"knock at a restricted room", after(joinRule("knock_restricted")), always(member(dave, dave, "knock")), [7]string{"5.6", "5.6", "4.6", "4.6.1", "4.7.1", ok, ok}},
	{"knock for another", after(joinRule("knock")), always(member(bob, dave, "knock")), [7]string{"5.6", "5.6", "4.6", "4.6.2", "4.7.2", "4.7.2", "5.7.2"}},
	{"knock from inside", after(joinRule("knock")), always(member(carol, carol, "knock")), [7]string{"5.6", "5.6", "4.6", "4.6.4", "4.7.4", "4.7.4", "5.7.4"}},
	{"unknown membership", nil, always(member(carol, carol, "odd")), [7]string{"5.6", "5.6", "4.6", "4.7", "4.8", "4.8", "5.8"}},
}

func via(user, authorisedBy id.UserID) roomtest.Event {
	e := member(user, user, "join")
	e.Content = fmt.Sprintf(`{"membership":"join","join_authorised_via_users_server":%q}`, authorisedBy)
	return e
}

var otherCases = []ruleCase{
	{"message", nil, always(message(carol)), all(ok)},
	{"message from outside", nil, always(message(dave)), [7]string{"6", "6", "5", "5", "5", "5", "6"}},
	{"state without power", nil, always(state(carol, "m.room.topic", `{}`)), [7]string{"8", "8", "7", "7", "7", "7", "8"}},
	{"state of another", nil, always(roomtest.Event{Type: "x", StateKey: roomtest.Key("@carol:two"), Sender: bob, Content: `{}`}), [7]string{"9", "9", "8", "8", "8", "8", "9"}},
	{"third-party invite", nil, always(state(carol, event.TypeThirdPartyInvite, `{}`)), all(ok)},
	{"third-party invite without power", func(v *event.Version) []roomtest.Event {
		return []roomtest.Event{levels(alice, levelsOf(v, `"invite":1`))}
	}, always(state(carol, event.TypeThirdPartyInvite, `{}`)), [7]string{"7.1", "7.1", "6.1", "6.1", "6.1", "6.1", "7.1"}},
	{"aliases from outside", nil, always(roomtest.Event{Type: event.TypeAliases, StateKey: roomtest.Key("three"), Sender: dave, Content: `{}`}), [7]string{ok, ok, "5", "5", "5", "5", "6"}},
	{"aliases of another server", nil, always(roomtest.Event{Type: event.TypeAliases, StateKey: roomtest.Key("one"), Sender: carol, Content: `{}`}), [7]string{"4.2", "4.2", "7", "7", "7", "7", "8"}},
	{"aliases not as state", nil, always(roomtest.Event{Type: event.TypeAliases, Sender: carol, Content: `{}`}), [7]string{"4.1", "4.1", ok, ok, ok, ok, ok}},
	{"redaction at another server", nil, always(roomtest.Event{Type: event.TypeRedaction, Sender: carol, Content: `{}`, Redacts: "$x:one"}), [7]string{"11.3", ok, ok, ok, ok, ok, ok}},
	{"redaction at the same server", nil, always(roomtest.Event{Type: event.TypeRedaction, Sender: carol, Content: `{}`, Redacts: "$x:two"}), all(ok)},
	{"redaction by power", nil, always(roomtest.Event{Type: event.TypeRedaction, Sender: bob, Content: `{}`, Redacts: "$x:two"}), all(ok)},
}

var levelCases = []ruleCase{
	{"change nothing", nil, func(v *event.Version) roomtest.Event { return levels(bob, levelsOf(v, "")) }, all(ok)},
	{"a level in a string", nil, func(v *event.Version) roomtest.Event { return levels(bob, levelsOf(v, `"kick":" +050 "`)) }, [7]string{ok, ok, ok, ok, ok, "9.1", "10.1"}},
	{"a level that is no number", nil, func(v *event.Version) roomtest.Event { return levels(bob, levelsOf(v, `"kick":"5a"`)) }, [7]string{"10.1", "10.1", "9.1", "9.1", "9.1", "9.1", "10.1"}},
	{"a level that is null", nil, func(v *event.Version) roomtest.Event { return levels(bob, levelsOf(v, `"kick":null`)) }, [7]string{"10.1", "10.1", "9.1", "9.1", "9.1", "9.1", "10.1"}},
	{"a float", nil, func(v *event.Version) roomtest.Event { return levels(bob, levelsOf(v, `"kick":5.0914E1`)) }, [7]string{ok, ok, none, none, none, none, none}},
	{"a float above oneself", nil, func(v *event.Version) roomtest.Event { return levels(bob, levelsOf(v, `"kick":5.1914E1`)) }, [7]string{"10.3.2", "10.3.2", none, none, none, none, none}},
	{"events that are a list", nil, func(v *event.Version) roomtest.Event { return levels(bob, levelsOf(v, `"events":[]`)) }, [7]string{"10.1", "10.1", "9.1", "9.1", "9.1", "9.2", "10.2"}},
	{"an event's level that is no number", nil, func(v *event.Version) roomtest.Event { return levels(bob, levelsOf(v, `"events":{"x":{}}`)) }, [7]string{"10.1", "10.1", "9.1", "9.1", "9.1", "9.2", "10.2"}},
	{"users that are null", nil, always(levels(bob, `{"users":null}`)), [7]string{"10.1", "10.1", "9.1", "9.1", "9.1", "9.3", "10.3"}},
	{"a user who is none", nil, always(levels(bob, `{"users":{"bob":1}}`)), [7]string{"10.1", "10.1", "9.1", "9.1", "9.1", "9.3", "10.3"}},
	{"a creator with a level", nil, always(levels(alice, `{"users":{"@alice:one":100}}`)), [7]string{ok, ok, ok, ok, ok, ok, "10.4"}},
	{"set a default above oneself", nil, func(v *event.Version) roomtest.Event { return levels(bob, levelsOf(v, `"users_default":51`)) }, [7]string{"10.3.2", "10.3.2", "9.3.2", "9.3.2", "9.3.2", "9.5.2", "10.6.2"}},
	{"remove a level above oneself", more(`"redact":51`), func(v *event.Version) roomtest.Event { return levels(bob, levelsOf(v, "")) }, [7]string{"10.3.1", "10.3.1", "9.3.1", "9.3.1", "9.3.1", "9.5.1", "10.6.1"}},
	{"lower an event's level above oneself", more(`"events":{"x":51}`), func(v *event.Version) roomtest.Event { return levels(bob, levelsOf(v, `"events":{"x":0}`)) }, [7]string{"10.4.1", "10.4.1", "9.4.1", "9.4.1", "9.4.1", "9.6.1", "10.7.1"}},
	{"set an event's level above oneself", nil, func(v *event.Version) roomtest.Event { return levels(bob, levelsOf(v, `"events":{"x":51}`)) }, [7]string{"10.5.1", "10.5.1", "9.5.1", "9.5.1", "9.5.1", "9.7.1", "10.8.1"}},
	{"set a notification's level above oneself", nil, func(v *event.Version) roomtest.Event { return levels(bob, levelsOf(v, `"notifications":{"room":51}`)) }, [7]string{ok, ok, "9.5.1", "9.5.1", "9.5.1", "9.7.1", "10.8.1"}},
	{"remove a notification's level above oneself", more(`"notifications":{"room":51}`), func(v *event.Version) roomtest.Event { return levels(bob, levelsOf(v, "")) }, [7]string{ok, ok, "9.4.1", "9.4.1", "9.4.1", "9.6.1", "10.7.1"}},
	{"remove a user of one's own level", moreUsers(`"@dave:three":50`), func(v *event.Version) roomtest.Event { return levels(bob, levelsOf(v, "")) }, [7]string{"10.6.1", "10.6.1", "9.6.1", "9.6.1", "9.6.1", "9.8.1", "10.9.1"}},
	{"lower oneself", nil, func(v *event.Version) roomtest.Event {
		return levels(bob, strings.Replace(levelsOf(v, ""), `"@bob:one":50`, `"@bob:one":49`, 1))
	}, all(ok)},
	{"raise oneself", nil, func(v *event.Version) roomtest.Event {
		return levels(bob, strings.Replace(levelsOf(v, ""), `"@bob:one":50`, `"@bob:one":51`, 1))
	}, [7]string{"10.7.1", "10.7.1", "9.7.1", "9.7.1", "9.7.1", "9.9.1", "10.10.1"}},
	{"make another one's equal", nil, func(v *event.Version) roomtest.Event {
		return levels(bob, strings.Replace(levelsOf(v, ""), `"@bob:one":50`, `"@bob:one":50,"@carol:two":50`, 1))
	}, all(ok)},
}

func more(members string) func(*event.Version) []roomtest.Event {
	return func(v *event.Version) []roomtest.Event {
		return []roomtest.Event{levels(alice, levelsOf(v, members))}
	}
}

func moreUsers(user string) func(*event.Version) []roomtest.Event {
	return func(v *event.Version) []roomtest.Event {
		return []roomtest.Event{levels(alice, strings.Replace(levelsOf(v, ""), `"@bob:one":50`, `"@bob:one":50,`+user, 1))}
	}
}

// TestRules takes each point of the rules in each version that numbers it anew.
func TestRules(t *testing.T) {
	for _, cases := range [][]ruleCase{memberCases, otherCases, levelCases} {
		for _, c := range cases {
			for i, name := range columns {
				if c.rules[i] == none {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s", c.what, name), func(t *testing.T) {
					v, _ := event.VersionOf(name)
					var before []roomtest.Event
					if c.before != nil {
						before = c.before(v)
					}
					b := room(v, before...)
					expect(t, eventauth.Authorize(b.Make(c.event(v)), b.State, b.Room.Create), c.rules[i])
				})
			}
		}
	}
}

func expect(t *testing.T, err error, rule string) {
	t.Helper()
	var refusal *eventauth.Refusal
	switch {
	case err == nil && rule == ok:
	case err == nil:
		t.Errorf("allowed, but for rule %s", rule)
	case !errors.As(err, &refusal):
		t.Errorf("not a refusal: %v", err)
	case refusal.Rule != rule:
		t.Errorf("%v, expected %s", err, rule)
	}
}
