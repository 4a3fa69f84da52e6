package eventauth_test

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/eventauth/roomtest"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

func versionOf(t testing.TB, name id.RoomVersion) *event.Version {
	t.Helper()
	v, ok := event.VersionOf(name)
	if !ok {
		t.Fatalf("no version %s", name)
	}
	return v
}

// TestCreate takes the points of rule 1 with events as they would come from elsewhere.
func TestCreate(t *testing.T) {
	for _, c := range []struct {
		what, version, change string // change replaces members of the event below
		rule                  string
	}{
		{"good", "1", `{}`, ok},
		{"good", "10", `{}`, ok},
		{"good", "11", `{"content":{"room_version":"11"}}`, ok},
		{"good", "12", `{"room_id":null,"content":{"room_version":"12"}}`, ok},
		{"follows an event", "10", `{"prev_events":["$x"]}`, "1.1"},
		{"room of another server", "10", `{"room_id":"!r:two"}`, "1.2"},
		{"with a room ID", "12", `{"content":{}}`, "1.2"},
		{"unknown version", "10", `{"content":{"creator":"@alice:one","room_version":"no"}}`, "1.3"},
		{"version that is no string", "10", `{"content":{"creator":"@alice:one","room_version":10}}`, "1.3"},
		{"no creator", "10", `{"content":{}}`, "1.4"},
		{"additional creators", "12", `{"room_id":null,"content":{"additional_creators":["@b:one"]}}`, ok},
		{"additional creators before their time", "11", `{"content":{"additional_creators":3}}`, ok},
		{"additional creators that are null", "12", `{"room_id":null,"content":{"additional_creators":null}}`, "1.4"},
		{"additional creators that are no list", "12", `{"room_id":null,"content":{"additional_creators":"@b:one"}}`, "1.4"},
		{"additional creators that are no users", "12", `{"room_id":null,"content":{"additional_creators":["b"]}}`, "1.4"},
		{"state key", "10", `{"state_key":"x"}`, "1"},
	} {
		t.Run(c.version+"/"+c.what, func(t *testing.T) {
			members := map[string]any{
				"type": "m.room.create", "state_key": "", "sender": alice, "room_id": "!r:one", "content": map[string]any{"creator": alice},
				"prev_events": []string{}, "auth_events": []string{}, "depth": 1, "origin_server_ts": 1,
			}
			var change map[string]any
			if err := json.Unmarshal([]byte(c.change), &change); err != nil {
				t.Fatal(err)
			}
			for key, value := range change {
				members[key] = value
				if value == nil {
					delete(members, key)
				}
			}
			raw, err := json.Marshal(members)
			if err != nil {
				t.Fatal(err)
			}
			e, err := event.ParseTrusted(versionOf(t, id.RoomVersion(c.version)), "$e:one", raw)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, eventauth.Authorize(e, eventauth.Map{}, nil), c.rule)
		})
	}
}

func TestFirstJoin(t *testing.T) {
	for _, name := range event.Versions() {
		b := roomtest.New(versionOf(t, name), alice, "")
		joined := b.Make(member(alice, alice, "join"))
		expect(t, eventauth.Authorize(joined, b.State, b.Room.Create), ok)
		if err := eventauth.Authorize(b.Make(member(bob, bob, "join")), b.State, b.Room.Create); err == nil {
			t.Errorf("version %s: another than the creator joins first", name)
		}
		b.Add(joined)
		b.Must(member(alice, alice, "leave"))
		if err := eventauth.Authorize(b.Make(member(alice, alice, "join")), b.State, b.Room.Create); err == nil {
			t.Errorf("version %s: the creator comes back uninvited", name)
		}
	}
}

// TestRoom takes the rules about the room itself.
func TestRoom(t *testing.T) {
	for _, c := range []struct{ version, none, other, closed string }{
		{"1", "2.4", "2.5", "3"}, {"11", "2.4", "2.5", "3"}, {"12", "2", "2", "4"},
	} {
		v := versionOf(t, id.RoomVersion(c.version))
		b := roomtest.New(v, alice, `"m.federate":false`)
		b.Must(member(alice, alice, "join"))
		expect(t, eventauth.Authorize(b.Make(message(alice)), b.State, nil), ok)
		expect(t, eventauth.Authorize(b.Make(message(alice)), eventauth.Map{}, nil), c.none)
		expect(t, eventauth.Authorize(b.Make(message(carol)), b.State, nil), c.closed)
		other := roomtest.New(v, carol, "")
		expect(t, eventauth.Authorize(b.Make(message(alice)), b.State, other.Room.Create), c.other)
	}
}

// TestNoLevels has a room without m.room.power_levels: the creator has level 100, or all power from version 12 on.
func TestNoLevels(t *testing.T) {
	for _, name := range event.Versions() {
		v := versionOf(t, name)
		b := roomtest.New(v, alice, "")
		b.Must(member(alice, alice, "join"))
		c := eventauth.NewContext(b.State, nil)
		want := int64(100)
		if v.PrivilegedCreators {
			want = eventauth.CreatorLevel
		}
		if got := c.UserLevel(alice); got != want {
			t.Errorf("version %s: the creator has %d", name, got)
		}
		if got := c.UserLevel(bob); got != 0 {
			t.Errorf("version %s: others have %d", name, got)
		}
		if l := c.Levels(); l.Event("x", true) != 50 || l.Event("x", false) != 0 || l.Ban() != 50 || l.Kick() != 50 || l.Redact() != 50 || l.Invite() != 0 || l.Notification("room") != 50 {
			t.Errorf("version %s: defaults are %+v", name, l)
		}
		b.Must(levels(alice, `{"users":{"@bob:one":1000}}`))
		if got := eventauth.NewContext(b.State, nil).UserLevel(alice); (got == eventauth.CreatorLevel) != v.PrivilegedCreators {
			t.Errorf("version %s: the creator has %d under power levels", name, got)
		}
	}
}

func TestCreators(t *testing.T) {
	b := roomtest.New(versionOf(t, "12"), alice, `"additional_creators":["@bob:one"]`)
	if got := eventauth.CreatorsOf(b.Room.Create); !slices.Equal(got, []id.UserID{alice, bob}) {
		t.Errorf("creators are %v", got)
	}
	b.Must(member(alice, alice, "join"))
	b.Must(levels(alice, `{"events":{"m.room.tombstone":9007199254740991},"ban":9007199254740991}`))
	b.Must(joinRule("public"))
	b.Must(member(bob, bob, "join"))
	b.Must(state(bob, "m.room.tombstone", `{}`))
	expect(t, eventauth.Authorize(b.Make(member(bob, alice, "ban")), b.State, nil), "5.6.3")
	expect(t, eventauth.Authorize(b.Make(levels(alice, `{"users":{"@bob:one":100}}`)), b.State, nil), "10.4")
	if got := eventauth.CreatorsOf(roomtest.New(versionOf(t, "10"), alice, `"additional_creators":["@bob:one"]`).Room.Create); !slices.Equal(got, []id.UserID{alice}) {
		t.Errorf("creators of version 10 are %v", got)
	}
}

// TestUnsignedRestrictedJoin strips the signature of the server that is said to have authorised a join.
func TestUnsignedRestrictedJoin(t *testing.T) {
	for version, rule := range map[id.RoomVersion]string{"7": "4.2.6", "8": "4.2.1", "12": "5.2.1"} {
		b := room(versionOf(t, version), joinRule("restricted"))
		signed := b.Make(via(dave, carol))
		var members map[string]any
		if err := json.Unmarshal(signed.JSON, &members); err != nil {
			t.Fatal(err)
		}
		members["signatures"] = map[string]any{"three": map[string]any{"ed25519:test": ""}}
		raw, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		unsigned, err := event.ParseTrusted(signed.Version, signed.ID, raw)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, eventauth.Authorize(unsigned, b.State, b.Room.Create), rule)
	}
}

func TestContextWith(t *testing.T) {
	b := room(versionOf(t, "12"))
	before := eventauth.NewContext(b.State, nil)
	if before.With(b.Must(message(alice))) != before {
		t.Error("a message changes the context")
	}
	after := before.With(b.Must(joinRule("knock"))).With(b.Must(levels(alice, `{"users":{"@carol:two":7}}`)))
	if before.JoinRule() != "public" || before.UserLevel(bob) != 50 {
		t.Error("the old context changed")
	}
	if after.JoinRule() != "knock" || after.UserLevel(bob) != 0 || after.UserLevel(carol) != 7 || after.UserLevel(alice) != eventauth.CreatorLevel {
		t.Error("the new context is not that of the new state")
	}
}

func TestMayRedact(t *testing.T) {
	b := room(versionOf(t, "11"))
	c := eventauth.NewContext(b.State, nil)
	ofBob, ofCarol := b.Must(message(bob)), b.Must(message(carol))
	redaction := func(sender id.UserID) *event.Event {
		return b.Make(roomtest.Event{Type: event.TypeRedaction, Sender: sender, Content: `{}`})
	}
	if !c.MayRedact(redaction(bob), ofCarol) || !c.MayRedact(redaction(carol), ofCarol) {
		t.Error("power or the same server are not enough")
	}
	if c.MayRedact(redaction(carol), ofBob) {
		t.Error("no power over another server's event was needed")
	}
}

// thirdParty is an invite for user that says it was promised to token.
func thirdParty(user id.UserID, signed string) roomtest.Event {
	e := member(bob, user, "invite")
	e.Content = fmt.Sprintf(`{"membership":"invite","third_party_invite":{"display_name":"d","signed":%s}}`, signed)
	return e
}

func TestThirdPartyInvite(t *testing.T) {
	key := sign.Key{ID: "ed25519:0", Private: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}
	signed, err := sign.JSON([]byte(`{"mxid":"@dave:three","token":"t"}`), "identity.example", key)
	if err != nil {
		t.Fatal(err)
	}
	promise := func(content string) roomtest.Event {
		return roomtest.Event{Type: event.TypeThirdPartyInvite, StateKey: roomtest.Key("t"), Sender: bob, Content: content}
	}
	public := sign.Base64(key.Public())
	good := promise(fmt.Sprintf(`{"public_key":%q}`, public))
	another := promise(`{"public_key":"MCowBQYDK2VwAyEA","public_keys":[{"public_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}`)
	ofAlice := good
	ofAlice.Sender = alice
	listed := promise(fmt.Sprintf(`{"public_key":"","public_keys":[{"public_key":%q}]}`, public))
	for _, c := range []struct {
		what   string
		before []roomtest.Event
		event  roomtest.Event
		point  string
	}{
		{"good", []roomtest.Event{good}, thirdParty(dave, string(signed)), ok},
		{"key in the list", []roomtest.Event{listed}, thirdParty(dave, string(signed)), ok},
		{"banned", []roomtest.Event{good, member(alice, dave, "ban")}, thirdParty(dave, string(signed)), "1"},
		{"nothing signed", []roomtest.Event{good}, thirdParty(dave, `null`), "2"},
		{"no token", []roomtest.Event{good}, thirdParty(dave, `{"mxid":"@dave:three"}`), "3"},
		{"another user", []roomtest.Event{good}, thirdParty("@eve:two", string(signed)), "4"},
		{"no promise", nil, thirdParty(dave, string(signed)), "5"},
		{"another's promise", []roomtest.Event{ofAlice}, thirdParty(dave, string(signed)), "6"},
		{"another key", []roomtest.Event{another}, thirdParty(dave, string(signed)), "8"},
		{"not signed", []roomtest.Event{good}, thirdParty(dave, `{"mxid":"@dave:three","token":"t"}`), "8"},
	} {
		for version, rule := range map[id.RoomVersion]string{"1": "5.3.1.", "7": "4.3.1.", "11": "4.4.1.", "12": "5.4.1."} {
			t.Run(c.what+"/"+string(version), func(t *testing.T) {
				b := room(versionOf(t, version), c.before...)
				e := b.Make(c.event)
				expected := ok
				if c.point != ok {
					expected = rule + c.point
				}
				expect(t, eventauth.Authorize(e, b.State, b.Room.Create), expected)
			})
		}
	}
}

// TestThirdPartyInviteChecks has so many keys and signatures that to try them all would take seconds.
func TestThirdPartyInviteChecks(t *testing.T) {
	signatures, keys := map[string]map[string]string{"s": {}}, []map[string]string{}
	for i := range 500 {
		signatures["s"][fmt.Sprintf("ed25519:%d", i)] = sign.Base64(make([]byte, ed25519.SignatureSize))
		key := make([]byte, ed25519.PublicKeySize)
		key[0], key[1] = byte(i), byte(i>>8)
		keys = append(keys, map[string]string{"public_key": sign.Base64(key)})
	}
	signed, err := json.Marshal(map[string]any{"mxid": dave, "token": "t", "signatures": signatures})
	if err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(map[string]any{"public_keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	b := room(versionOf(t, "12"), roomtest.Event{Type: event.TypeThirdPartyInvite, StateKey: roomtest.Key("t"), Sender: bob, Content: string(content)})
	expect(t, eventauth.Authorize(b.Make(thirdParty(dave, string(signed))), b.State, b.Room.Create), "5.4.1.8")
}

// TestThirdPartyInviteSigners has many signers without a signature that counts: what is signed is not read anew for each.
func TestThirdPartyInviteSigners(t *testing.T) {
	signatures := map[string]map[string]string{}
	for i := range 3000 {
		signatures[fmt.Sprint("s", i)] = map[string]string{}
	}
	signed, err := json.Marshal(map[string]any{"mxid": dave, "token": "t", "signatures": signatures})
	if err != nil {
		t.Fatal(err)
	}
	b := room(versionOf(t, "12"), roomtest.Event{Type: event.TypeThirdPartyInvite, StateKey: roomtest.Key("t"), Sender: bob, Content: `{"public_keys":[]}`})
	e := b.Make(thirdParty(dave, string(signed)))
	made := testing.AllocsPerRun(2, func() { expect(t, eventauth.Authorize(e, b.State, b.Room.Create), "5.4.1.8") })
	if made > 1000 {
		t.Errorf("%v allocations were made for 3,000 signers", made)
	}
}
