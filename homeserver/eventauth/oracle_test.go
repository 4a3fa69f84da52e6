package eventauth_test

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	gmsl "github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"pgregory.net/rapid"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/eventauth/roomtest"
	"github.com/securecomm/securecomm/homeserver/id"
)

// TestAgainstOracle compares our verdicts on rooms made by chance with those of gomatrixserverlib.
func TestAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, _ := event.VersionOf(rapid.SampledFrom(event.Versions()).Draw(t, "version"))
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		chance := roomtest.Chance{Choose: random.IntN}
		b, asked := chance.Room(v), oracle{}
		for range 40 {
			e := b.Make(chance.Event(b))
			ours := eventauth.Authorize(e, b.State, b.Room.Create)
			if theirs := asked.authorize(t, e, b.State); (ours == nil) != (theirs == nil) && !oracleDiffers(e, b, ours) {
				t.Fatalf("we say %v, the oracle %v\nof %s", ours, theirs, e.JSON)
			}
			if ours == nil {
				b.Add(e)
			}
		}
	})
}

// TestWhereOracleDiffers shows the points at which the oracle departs from the specification: ours are the
// answers by the rules, the oracle's are the opposite.
func TestWhereOracleDiffers(t *testing.T) {
	for _, c := range []struct {
		what    string
		version id.RoomVersion
		before  []roomtest.Event
		event   func(v *event.Version) roomtest.Event
		rule    string
	}{
		{"users_default is not compared", "11", nil, func(v *event.Version) roomtest.Event { return levels(bob, levelsOf(v, `"users_default":51`)) }, "9.5.2"},
		{"aliases have no rule of their own", "6", nil, always(roomtest.Event{Type: event.TypeAliases, StateKey: roomtest.Key("three"), Sender: dave, Content: `{}`}), "5"},
		{"nobody leaves twice", "11", []roomtest.Event{member(carol, carol, "leave")}, always(member(carol, carol, "leave")), "4.5.1"},
		{"an invitation counts only by join rules that say so", "11", []roomtest.Event{joinRule("private"), member(bob, dave, "invite")}, always(member(dave, dave, "join")), "4.3.7"},
		{"knock_restricted came in version 10", "9", []roomtest.Event{joinRule("knock_restricted")}, always(member(dave, dave, "knock")), "4.7.1"},
		{"to unban takes more power than the banned has", "11", []roomtest.Event{member(alice, dave, "ban"), levels(alice, `{"users":{"@alice:one":100,"@bob:one":50,"@dave:three":50}}`)}, always(member(bob, dave, "leave")), "4.5.5"},
		{"knocking bars nobody from a public room", "11", []roomtest.Event{joinRule("knock"), member(dave, dave, "knock"), joinRule("public")}, always(member(dave, dave, "join")), ok},
		{"notifications are as events, not as users", "11", []roomtest.Event{levels(alice, `{"users":{"@alice:one":100,"@bob:one":50},"notifications":{"room":50}}`)}, always(levels(bob, `{"users":{"@alice:one":100,"@bob:one":50},"notifications":{"room":0}}`)), ok},
		{"what is absent has no level to change", "11", []roomtest.Event{levels(alice, `{"users":{"@alice:one":100,"@bob:one":50},"users_default":50}`)}, always(levels(bob, `{"users":{"@alice:one":100,"@bob:one":50,"@dave:three":10},"users_default":50}`)), ok},
	} {
		t.Run(c.what, func(t *testing.T) {
			v, _ := event.VersionOf(c.version)
			b := room(v, c.before...)
			e := b.Make(c.event(v))
			expect(t, eventauth.Authorize(e, b.State, b.Room.Create), c.rule)
			if theirs := (oracle{}).authorize(t, e, b.State); (theirs == nil) == (c.rule == ok) {
				t.Errorf("the oracle agrees by now: %v", theirs)
			}
		})
	}
}

// oracle asks gomatrixserverlib. It remembers the events that it has read.
type oracle map[id.EventID]gmsl.PDU

func (o oracle) authorize(t interface{ Fatalf(string, ...any) }, e *event.Event, state eventauth.Map) error {
	pdu := func(e *event.Event) gmsl.PDU {
		if known, ok := o[e.ID]; ok {
			return known
		}
		made, err := gmsl.MustGetRoomVersion(gmsl.RoomVersion(e.Version.ID)).NewEventFromTrustedJSONWithEventID(string(e.ID), e.JSON, false)
		if err != nil {
			t.Fatalf("the oracle can't read %s: %v", e.JSON, err)
		}
		o[e.ID] = made
		return made
	}
	var events []gmsl.PDU
	for _, s := range state {
		events = append(events, pdu(s))
	}
	auth, err := gmsl.NewAuthEvents(events)
	if err != nil {
		t.Fatalf("the oracle's auth events: %v", err)
	}
	return gmsl.Allowed(pdu(e), auth, func(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
		return spec.NewUserID(string(sender), true)
	})
}

// oracleDiffers holds the points where the oracle departs from the specification; TestWhereOracleDiffers
// shows each.
func oracleDiffers(e *event.Event, b *roomtest.Branch, ours error) bool {
	v := e.Version
	if e.Type == event.TypeAliases {
		return !v.AliasesAuth // still has its own rule in the oracle
	}
	if e.Type == event.TypePowerLevels {
		// The oracle never looks at users_default, at notifications as if they were users, and takes what is
		// absent for its default.
		refusal, refused := ours.(*eventauth.Refusal)
		if refused && strings.Contains(refusal.Reason, "users_default") {
			return true
		}
		old := b.State.Get(event.TypePowerLevels, "").Content
		return !refused && string(memberIn(old, "notifications")) != string(memberIn(e.Content, "notifications")) ||
			!reflect.DeepEqual(keys(old), keys(e.Content)) ||
			!reflect.DeepEqual(keys(memberIn(old, "events")), keys(memberIn(e.Content, "events"))) ||
			!reflect.DeepEqual(keys(memberIn(old, "users")), keys(memberIn(e.Content, "users")))
	}
	if e.Type != event.TypeMember {
		return false
	}
	before, rule := "", eventauth.NewContext(b.State, b.Room.Create).JoinRule()
	if old := b.State.Get(event.TypeMember, *e.StateKey); old != nil {
		before = old.Membership()
	}
	if ours == nil { // the oracle bars who has knocked from public rooms
		return e.Membership() == "join" && before == "knock"
	}
	switch e.Membership() {
	case "leave": // again, or unbanning someone of more power or with too little to kick
		return before == "leave" || before == "" || before == "ban"
	case "join": // of the invited or joined whatever the join rule, and by one of later versions
		return before == "invite" || before == "join" || rule == "knock_restricted" && !v.KnockRestricted
	case "knock": // by a join rule of later versions
		return rule == "knock_restricted" && !v.KnockRestricted
	}
	return false
}

func memberIn(object json.RawMessage, key string) json.RawMessage { return entries(object)[key] }

func keys(object json.RawMessage) []string { return slices.Sorted(maps.Keys(entries(object))) }

func entries(object json.RawMessage) map[string]json.RawMessage {
	var members map[string]json.RawMessage
	if object != nil && json.Unmarshal(object, &members) != nil {
		return nil
	}
	return members
}
