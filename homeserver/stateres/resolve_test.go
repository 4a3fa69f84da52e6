package stateres_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth/roomtest"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stateres"
)

// chanceRoom makes a room whose history forks and meets, and hands each set of states that has to be
// resolved on the way to check, which answers with the resolution.
func chanceRoom(v *event.Version, seed uint64, check func(room *roomtest.Room, sets []stateIDs) stateIDs) {
	random := rand.New(rand.NewPCG(seed, 0))
	chance := roomtest.Chance{Choose: random.IntN}
	branches := []*roomtest.Branch{chance.Room(v)}
	for range 45 {
		i := random.IntN(len(branches))
		switch {
		case random.IntN(5) == 0 && len(branches) < 4:
			branches = append(branches, branches[i].Fork())
		case random.IntN(12) == 0 && len(branches) > 1:
			met := branches[:2+random.IntN(len(branches)-1)]
			rest := branches[len(met):]
			branches = append([]*roomtest.Branch{roomtest.Meet(check(met[0].Room, statesOf(met)), met...)}, rest...)
		default:
			_, _ = branches[i].Send(chance.Event(branches[i])) // refused ones are part of the game
		}
	}
	check(branches[0].Room, statesOf(branches))
}

func statesOf(branches []*roomtest.Branch) []stateIDs {
	var sets []stateIDs
	for _, b := range branches {
		sets = append(sets, b.IDs())
	}
	return sets
}

func describe(room *roomtest.Room, state stateIDs) string {
	said := make(map[event.StateKeyTuple]string)
	for key, eventID := range state {
		e := room.Event(eventID)
		said[key] = string(e.Sender) + " " + string(e.Content)
	}
	return fmt.Sprint(said)
}

// TestAgainstReference compares with the specification's definitions, taken literally and slowly.
func TestAgainstReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, _ := event.VersionOf(rapid.SampledFrom(event.Versions()[1:]).Draw(t, "version"))
		chanceRoom(v, rapid.Uint64().Draw(t, "seed"), func(room *roomtest.Room, sets []stateIDs) stateIDs {
			got, err := resolveSets(v, sets, room)
			if err != nil {
				t.Fatal(err)
			}
			literal := reference{room, v.StateRes == event.StateResV21, make(map[id.EventID]idSet)}
			if want := literal.resolve(sets); !maps.Equal(got, want) {
				t.Fatalf("resolved to\n%v\nexpected\n%v", describe(room, got), describe(room, want))
			}
			common, rest := apart(sets, withPlaces(room), func(event.StateKeyTuple) bool { return rapid.IntRange(0, 3).Draw(t, "left in") == 0 })
			short, err := stateres.Resolve(v, common, rest, common.graphed)
			if maps.Copy(short, common.state); err != nil || !maps.Equal(short, got) {
				t.Fatalf("without what is common, resolved to\n%v\nexpected\n%v, %v", describe(room, short), describe(room, got), err)
			}
			return got
		})
	})
}

// TestOrderOfSets holds that neither the order of the state sets nor that of map entries matters.
func TestOrderOfSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, _ := event.VersionOf(rapid.SampledFrom(event.Versions()).Draw(t, "version"))
		chanceRoom(v, rapid.Uint64().Draw(t, "seed"), func(room *roomtest.Room, sets []stateIDs) stateIDs {
			got, err := resolveSets(v, sets, room)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				again, err := resolveSets(v, rapid.Permutation(sets).Draw(t, "order"), room)
				if err != nil || !maps.Equal(got, again) {
					t.Fatalf("resolved to\n%v\nthen to\n%v, %v", describe(room, got), describe(room, again), err)
				}
			}
			return got
		})
	})
}

func TestFewSets(t *testing.T) {
	v, _ := event.VersionOf("12")
	b := roomtest.New(v, "@a:one", "")
	if got, err := resolveSets(v, nil, b.Room); err != nil || got == nil || len(got) != 0 {
		t.Errorf("no sets: %v, %v", got, err)
	}
	got, err := resolveSets(v, []stateIDs{b.IDs()}, b.Room)
	if err != nil || !maps.Equal(got, b.IDs()) {
		t.Errorf("one set: %v, %v", got, err)
	}
	got, err = resolveSets(v, []stateIDs{b.IDs(), b.IDs(), b.IDs()}, b.Room)
	if err != nil || !maps.Equal(got, b.IDs()) {
		t.Errorf("three equal sets: %v, %v", got, err)
	}
}

// lacking is a room without some of its events, and with some that were rejected.
type lacking struct {
	*roomtest.Room
	without, rejected id.EventID
}

func (l lacking) Event(eventID id.EventID) *event.Event {
	if eventID == l.without {
		return nil
	}
	return l.Room.Event(eventID)
}

func (l lacking) Rejected(eventID id.EventID) bool { return eventID == l.rejected }

func TestMissingEvents(t *testing.T) {
	for _, name := range event.Versions() {
		v, _ := event.VersionOf(name)
		one, two, banned := banRoom(v)
		_, err := resolveSets(v, []stateIDs{one.IDs(), two.IDs()}, lacking{Room: one.Room, without: banned.ID})
		var missing *stateres.MissingError
		if !errors.As(err, &missing) || len(missing.IDs) != 1 || missing.IDs[0] != banned.ID {
			t.Errorf("version %s: %v", name, err)
		}
	}
}
