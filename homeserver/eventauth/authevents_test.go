package eventauth_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/eventauth/roomtest"
	"github.com/securecomm/securecomm/homeserver/id"
)

func TestAuthEventsNeeded(t *testing.T) {
	tuple := func(typ, key string) event.StateKeyTuple { return event.StateKeyTuple{Type: typ, StateKey: key} }
	create, levels, rules := tuple(event.TypeCreate, ""), tuple(event.TypePowerLevels, ""), tuple(event.TypeJoinRules, "")
	of := func(user id.UserID) event.StateKeyTuple { return tuple(event.TypeMember, string(user)) }
	key := roomtest.Key
	for _, c := range []struct {
		what, version, typ string
		key                *string
		content            string
		want               []event.StateKeyTuple
	}{
		{"create", "1", event.TypeCreate, key(""), `{}`, nil},
		{"message", "1", "m.room.message", nil, `{}`, []event.StateKeyTuple{create, levels, of(alice)}},
		{"message", "12", "m.room.message", nil, `{}`, []event.StateKeyTuple{levels, of(alice)}},
		{"own join", "11", event.TypeMember, key("@alice:one"), `{"membership":"join"}`, []event.StateKeyTuple{create, levels, of(alice), rules}},
		{"restricted join", "8", event.TypeMember, key("@alice:one"), `{"membership":"join","join_authorised_via_users_server":"@bob:one"}`, []event.StateKeyTuple{create, levels, of(alice), rules, of(bob)}},
		{"restricted join before its time", "7", event.TypeMember, key("@alice:one"), `{"membership":"join","join_authorised_via_users_server":"@bob:one"}`, []event.StateKeyTuple{create, levels, of(alice), rules}},
		{"ban", "12", event.TypeMember, key("@bob:one"), `{"membership":"ban"}`, []event.StateKeyTuple{levels, of(alice), of(bob)}},
		{"knock", "12", event.TypeMember, key("@alice:one"), `{"membership":"knock"}`, []event.StateKeyTuple{levels, of(alice), rules}},
		{"third-party invite", "12", event.TypeMember, key("@bob:one"), `{"membership":"invite","third_party_invite":{"signed":{"token":"t"}}}`, []event.StateKeyTuple{levels, of(alice), of(bob), rules, tuple(event.TypeThirdPartyInvite, "t")}},
		{"third-party invite elsewhere", "12", event.TypeMember, key("@bob:one"), `{"membership":"ban","third_party_invite":{"signed":{"token":"t"}}}`, []event.StateKeyTuple{levels, of(alice), of(bob)}},
		{"nonsense", "12", event.TypeMember, nil, `[]`, []event.StateKeyTuple{levels, of(alice)}},
	} {
		got := eventauth.AuthEventsNeeded(versionOf(t, id.RoomVersion(c.version)), c.typ, c.key, alice, json.RawMessage(c.content))
		if !slices.Equal(got, c.want) {
			t.Errorf("%s in version %s: %v, expected %v", c.what, c.version, got, c.want)
		}
	}
}

func TestCheckAuthEvents(t *testing.T) {
	for _, c := range []struct{ version, rule string }{{"1", "2"}, {"11", "2"}, {"12", "3"}} {
		v := versionOf(t, id.RoomVersion(c.version))
		b := room(v)
		get := func(typ, key string) *event.Event { return b.State.Get(typ, key) }
		create, levels, of := get(event.TypeCreate, ""), get(event.TypePowerLevels, ""), get(event.TypeMember, string(carol))
		e := b.Make(message(carol))
		good := []*event.Event{levels, of}
		if !v.NoCreateInAuthEvents {
			good = append(good, create)
		}
		expect(t, eventauth.CheckAuthEvents(e, good), ok)
		expect(t, eventauth.CheckAuthEvents(create, nil), ok)
		older := b.Make(member(carol, carol, "join"))
		expect(t, eventauth.CheckAuthEvents(e, append([]*event.Event{older}, good...)), c.rule+".1")
		expect(t, eventauth.CheckAuthEvents(e, append(good, get(event.TypeJoinRules, ""))), c.rule+".2")
		expect(t, eventauth.CheckAuthEvents(e, append(good, e)), c.rule+".2")
		expect(t, eventauth.RefuseRejected(e), c.rule+".3")
		if v.NoCreateInAuthEvents {
			expect(t, eventauth.CheckAuthEvents(e, append(good, create)), c.rule+".2")
		} else {
			expect(t, eventauth.CheckAuthEvents(e, good[:2]), c.rule+".4")
		}
		elsewhere := roomtest.New(v, carol, "")
		foreign := elsewhere.Must(member(carol, carol, "join"))
		expect(t, eventauth.CheckAuthEvents(e, append([]*event.Event{foreign}, slices.Delete(slices.Clone(good), 1, 2)...)), c.rule+".5")
	}
}
