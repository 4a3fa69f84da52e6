package stateres_test

import (
	"fmt"
	"testing"
	"time"

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

// TestLargeRoom has auth chains that are too long for anything that recurses or grows with their square.
func TestLargeRoom(t *testing.T) {
	for _, name := range []id.RoomVersion{"2", "12"} {
		branches := largeRoom(name, 5000, 500)
		began := time.Now()
		resolve(t, branches...)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("version %s: took %v", name, took)
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
