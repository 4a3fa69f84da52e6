package stateres_test

import (
	"fmt"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth/roomtest"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stateres"
)

// largeRoom forks after some thousand joins and some hundred changes of power levels.
func largeRoom(name id.RoomVersion, members, changes int) []*roomtest.Branch {
	v, _ := event.VersionOf(name)
	b := start(v)
	for i := range members {
		if i%(members/changes) == 0 {
			b.Must(levels(v, "@alice:one", 50, 50+i%2, int64(i)))
		}
		user := id.UserID(fmt.Sprintf("@user%d:one", i))
		b.Must(member(user, user, "join", int64(i)))
	}
	other := b.Fork()
	for i := range 50 {
		user := id.UserID(fmt.Sprintf("@user%d:one", i))
		b.Must(member("@bob:one", user, "leave", int64(i)))
		other.Must(state("@bob:one", "m.room.topic", fmt.Sprintf(`{"topic":"%d"}`, i), int64(i)))
	}
	b.Must(levels(v, "@alice:one", 50, 49, int64(members)))
	return []*roomtest.Branch{b, other}
}

// counted counts how often an event is asked for.
type counted struct {
	simple
	asked int
}

func (c *counted) Event(eventID id.EventID) *event.Event {
	c.asked++
	return c.simple.Event(eventID)
}

// TestLargeRoom has auth chains that are too long for anything that recurses, and counts the events that are asked for:
// none has to be looked at more than a few times.
func TestLargeRoom(t *testing.T) {
	for _, name := range []id.RoomVersion{"2", "12"} {
		branches := largeRoom(name, 5000, 500)
		c := &counted{simple: branches[0].Room}
		if _, err := resolveSets(branches[0].Room.Version, statesOf(branches), c); err != nil {
			t.Fatal(err)
		}
		const events = 5000 + 500 + 100 + 10
		if c.asked == 0 || c.asked > 4*events {
			t.Errorf("version %s: asked for %d events of %d", name, c.asked, events)
		}
	}
}

// looked counts what is asked for of a graph whose places are known.
type looked struct {
	graphed
	events, places int
}

func (l *looked) Place(eventID id.EventID) (stateres.Place, bool) {
	l.places++
	return l.graphed.Place(eventID)
}

func (l *looked) Event(eventID id.EventID) *event.Event {
	l.events++
	return l.graphed.Event(eventID)
}

// TestWorkFollowsTheConflict: a member whose event is forked costs the same in a room of fifteen and in one of fifteen hundred
// with a hundred times as many power levels in its past.
func TestWorkFollowsTheConflict(t *testing.T) {
	for _, name := range []id.RoomVersion{"2", "11", "12"} {
		v, _ := event.VersionOf(name)
		var costs []looked
		for _, size := range []int{15, 1500} {
			one := start(v)
			for i := range size {
				if i%5 == 0 {
					one.Must(levels(v, "@alice:one", 50, 50+i%2, int64(i)))
				}
				user := id.UserID(fmt.Sprintf("@user%d:one", i))
				one.Must(member(user, user, "join", int64(i)))
			}
			last := id.UserID(fmt.Sprintf("@user%d:one", size-1))
			two := one.Fork()
			one.Must(member(last, last, "join", int64(size+1)))
			one.Must(member(last, last, "join", int64(size+2)))
			two.Must(member(last, last, "join", int64(size+3)))
			sets := statesOf([]*roomtest.Branch{one, two})
			common, rest := apart(sets, withPlaces(one.Room), func(event.StateKeyTuple) bool { return false })
			for _, eventID := range one.IDs() {
				common.Place(eventID)
			}
			l := looked{graphed: common.graphed}
			got, err := stateres.Resolve(v, common, rest, &l)
			if err != nil || len(got) != 1 {
				t.Fatalf("version %s: resolved %v, %v", name, got, err)
			}
			costs = append(costs, l)
		}
		if a, b := costs[0], costs[1]; a.events != b.events || a.places != b.places || a.events > 30 {
			t.Errorf("version %s: %d events and %d places are looked at in a small room, %d and %d in a large one", name, a.events, a.places, b.events, b.places)
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	for _, name := range []id.RoomVersion{"2", "12"} {
		branches := largeRoom(name, 5000, 500)
		sets := statesOf(branches)
		b.Run(string(name), func(b *testing.B) {
			for b.Loop() {
				if _, err := resolveSets(branches[0].Room.Version, sets, branches[0].Room); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
