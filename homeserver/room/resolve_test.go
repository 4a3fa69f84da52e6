package room

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth/roomtest"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stateres"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// crowd is a room of so many members in a database, all outliers, in which eve's own member event is forked.
type crowd struct {
	testing.TB
	*Engine
	room  *store.Room
	trunk *roomtest.Branch
	nids  map[id.EventID]store.EventNID
	keys  map[event.StateKeyTuple]int64
	base  store.StateMap
}

const eve id.UserID = "@eve:evil.test"

func join(user id.UserID, name string) roomtest.Event {
	return roomtest.Event{Type: event.TypeMember, StateKey: roomtest.Key(string(user)), Sender: user, Content: fmt.Sprintf(`{"membership":"join","displayname":%q}`, name)}
}

func newCrowd(t testing.TB, db *store.DB, version id.RoomVersion, members int) *crowd {
	t.Helper()
	v, _ := event.VersionOf(version)
	alice := id.UserID(fmt.Sprintf("@alice:v%s-%d.test", version, members))
	levels := fmt.Sprintf(`{"users":{%q:100}}`, alice)
	if v.PrivilegedCreators {
		levels = `{}`
	}
	b := roomtest.New(v, alice, "")
	b.Must(join(alice, ""))
	b.Must(roomtest.Event{Type: event.TypePowerLevels, StateKey: roomtest.Key(""), Sender: alice, Content: levels})
	b.Must(roomtest.Event{Type: event.TypeJoinRules, StateKey: roomtest.Key(""), Sender: alice, Content: `{"join_rule":"public"}`})
	for i := range members {
		b.Must(join(id.UserID(fmt.Sprintf("@u%d:one.test", i)), ""))
	}
	b.Must(join(eve, "eve"))
	c := &crowd{
		TB: t, Engine: &Engine{Store: db, Server: "one.test", Log: slog.New(slog.NewTextHandler(io.Discard, nil))}, trunk: b,
		nids: map[id.EventID]store.EventNID{}, keys: map[event.StateKeyTuple]int64{},
	}
	c.room = &store.Room{NID: store.RoomNID(c.number()), ID: b.Room.ID, Version: v}
	c.must(db.Update(context.Background(), func(tx *store.Tx) error { return tx.Rooms.Insert(c.room, store.Head{}) }))
	c.base = c.state(b)
	return c
}

func (c *crowd) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *crowd) number() int64 {
	n, err := c.Store.NextNumber(context.Background())
	c.must(err)
	return n
}

// state stores what is new of the room, and is the state of a branch.
func (c *crowd) state(b *roomtest.Branch) store.StateMap {
	c.Helper()
	ctx := context.Background()
	var tuples []event.StateKeyTuple
	for t := range b.State {
		if c.keys[t] == 0 {
			tuples = append(tuples, t)
		}
	}
	keys, err := c.Store.StateKeys(ctx, tuples)
	c.must(err)
	maps.Copy(c.keys, keys)
	var fresh []*store.Event
	for _, ev := range b.Room.All {
		if c.nids[ev.ID] == 0 {
			c.nids[ev.ID] = store.EventNID(c.number())
			fresh = append(fresh, &store.Event{Event: ev, NID: c.nids[ev.ID], Room: c.room.NID})
		}
	}
	c.must(c.Store.Update(ctx, func(tx *store.Tx) error {
		for _, ev := range fresh {
			if err := tx.Events.InsertAside(ev); err != nil {
				return err
			}
		}
		return nil
	}))
	m := c.base
	for t, ev := range b.State {
		m = m.Set(c.keys[t], c.nids[ev.ID])
	}
	return m
}

// fork has eve change her name in two ways, in one of them twice: the states on both sides.
func (c *crowd) fork(n int) []store.StateMap {
	one, two := c.trunk.Fork(), c.trunk.Fork()
	one.Must(join(eve, fmt.Sprint("a", n)))
	one.Must(join(eve, fmt.Sprint("b", n)))
	two.Must(join(eve, fmt.Sprint("c", n)))
	return []store.StateMap{c.state(one), c.state(two)}
}

// resolveOnce resolves with what was read before at hand, and says how many events were read.
func (c *crowd) resolveOnce(states []store.StateMap) (out store.StateMap, loaded int) {
	c.Helper()
	c.must(c.Store.View(context.Background(), func(tx *store.Tx) (err error) {
		s := newSource(tx, c.graph(c.room.NID), nil)
		out, err = s.resolve(c.room.Version, states)
		loaded = s.loaded
		return err
	}))
	return out, loaded
}

// whole resolves the same states looking at all of them.
func (c *crowd) whole(states []store.StateMap) (out store.StateMap) {
	c.Helper()
	c.must(c.Store.View(context.Background(), func(tx *store.Tx) error {
		s := newSource(tx, c.graph(c.room.NID), nil)
		all := map[int64]bool{}
		for _, m := range states {
			for key := range m.All {
				all[key] = true
			}
		}
		sets, numbers, err := s.sets(states, all)
		if err != nil {
			return err
		}
		resolved, err := stateres.Resolve(c.room.Version, stateres.Nothing{}, sets, s)
		for t, eventID := range resolved {
			out = out.Set(numbers[t], s.find(eventID).NID)
		}
		return err
	}))
	return out
}

// TestResolutionReadsTheConflict: what a resolution reads does not depend on how many are in the room, and its outcome
// not on what it leaves out.
func TestResolutionReadsTheConflict(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for _, version := range []id.RoomVersion{"1", "10", "12"} {
			var read []int
			sizes := []int{15, 600}
			if version == "1" {
				sizes = sizes[:1] // the IDs of the test's events would be the same in a second room
			}
			for _, members := range sizes {
				c := newCrowd(t, db, version, members)
				c.resolveOnce(c.fork(0)) // reads the room once
				states := c.fork(1)
				got, loaded := c.resolveOnce(states)
				read = append(read, loaded)
				if want := c.whole(states); len(distinct([]store.StateMap{got, want})) != 1 {
					t.Errorf("version %s: resolved to another state than with all of it looked at", version)
				}
			}
			if last := read[len(read)-1]; read[0] == 0 || read[0] != last || read[0] > 20 {
				t.Errorf("version %s: %d events are read in a small room and %d in a large one", version, read[0], last)
			}
		}
	})
}

// BenchmarkForkedMember shows that the time does not depend on the room's size either.
func BenchmarkForkedMember(b *testing.B) {
	for _, members := range []int{15, 1500} {
		db := storetest.Open(b, filepath.Join(b.TempDir(), "bench.db"))
		c := newCrowd(b, db, "11", members)
		forks := [][]store.StateMap{c.fork(0), c.fork(1)}
		b.Run(fmt.Sprint(members, "members"), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				c.resolveOnce(forks[i%2])
			}
		})
	}
}
