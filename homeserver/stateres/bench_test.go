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
	stateres.Events
	asked int
}

func (c *counted) Event(eventID id.EventID) *event.Event {
	c.asked++
	return c.Events.Event(eventID)
}

// TestLargeRoom has auth chains that are too long for anything that recurses, and counts the events that are asked for:
// none has to be looked at more than a few times.
func TestLargeRoom(t *testing.T) {
	for _, name := range []id.RoomVersion{"2", "12"} {
		branches := largeRoom(name, 5000, 500)
		c := &counted{Events: branches[0].Room}
		if _, err := stateres.Resolve(branches[0].Room.Version, statesOf(branches), c); err != nil {
			t.Fatal(err)
		}
		const events = 5000 + 500 + 100 + 10
		if c.asked == 0 || c.asked > 4*events {
			t.Errorf("version %s: asked for %d events of %d", name, c.asked, events)
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	for _, name := range []id.RoomVersion{"2", "12"} {
		branches := largeRoom(name, 5000, 500)
		sets := statesOf(branches)
		b.Run(string(name), func(b *testing.B) {
			for b.Loop() {
				if _, err := stateres.Resolve(branches[0].Room.Version, sets, branches[0].Room); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
