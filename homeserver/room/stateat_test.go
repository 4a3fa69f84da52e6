package room_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/stateres"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// named is a state in words.
func (f *forker) named(tx *store.Tx, m store.StateMap) map[event.StateKeyTuple]id.EventID {
	f.Helper()
	list, err := tx.States.Events(m)
	if err != nil || len(list) != m.Len() {
		f.Fatalf("%d events of a state of %d, %v", len(list), m.Len(), err)
	}
	out := map[event.StateKeyTuple]id.EventID{}
	for _, e := range list {
		out[e.Tuple()] = e.ID
	}
	return out
}

// positions is the state of the room at the position of each event, and right before the next one.
func (f *forker) positions() map[stream.Position]map[event.StateKeyTuple]id.EventID {
	f.Helper()
	out := map[stream.Position]map[event.StateKeyTuple]id.EventID{}
	f.view(func(tx *store.Tx, r *store.Room) error {
		for i, ev := range f.timeline() {
			at := []stream.Position{ev.Position}
			if i > 0 {
				at = append(at, ev.Position-1)
			}
			for _, p := range at {
				m, err := tx.States.At(r.NID, p)
				if err != nil {
					return err
				}
				out[p] = f.named(tx, m)
			}
		}
		return nil
	})
	return out
}

// TestStateAtPosition: whatever forks in whatever order, the state of a room at a position is what the ends that it had then
// resolve to.
func TestStateAtPosition(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		storetest.Check(t, func(t *rapid.T) {
			v := rapid.SampledFrom([]id.RoomVersion{"1", "6", "10", "12"}).Draw(t, "version")
			f := fork(t, one, two, v)
			f.chaos(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)))
			list, states := f.timeline(), f.positions()
			f.view(func(tx *store.Tx, r *store.Room) error {
				for i, ev := range list {
					var sets []map[event.StateKeyTuple]id.EventID
					for _, end := range endsOf(list[:i+1]) {
						sets = append(sets, f.after(tx, source{f, tx}.get(end)))
					}
					want, err := stateres.Resolve(r.Version, stateres.Nothing{}, sets, source{f, tx})
					if err != nil {
						return err
					}
					if got := states[ev.Position]; !maps.Equal(got, want) {
						f.Fatalf("the state at event %d of %d, with %d ends, is %v, not %v", i, len(list), len(sets), got, want)
					}
				}
				if got, want := states[list[len(list)-1].Position], f.now(tx, r); !maps.Equal(got, want) {
					f.Fatalf("the state at the end is %v, not %v", got, want)
				}
				return nil
			})
		})
	})
}

// TestStateAtPositionLasts: what a room's state was at a position is known for as long as the events are.
func TestStateAtPositionLasts(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		db := storetest.Open(t, address)
		one, two := pair(t, db)
		f := fork(t, one, two, "11")
		old := f.last()
		self := "@bob:two.test"
		f.set("m.room.topic", "", `{"topic":"later"}`)
		// Each time another state is the current one, before which no event stands: the last of a chain no other needs either.
		for i := range 80 {
			f.deliver(f.forge(old, event.Proto{Type: event.TypeMember, StateKey: &self, Sender: "@bob:two.test", Content: json.RawMessage(fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, i))}))
		}
		f.say("tied together")
		f.say("the end")
		before := f.positions()
		collect(t, one, time.Now())
		collect(t, one, time.Now().Add(2*time.Hour))
		f.us = again(one)
		f.us.Store = storetest.Open(t, address) // remembers nothing
		for p, got := range f.positions() {
			if !maps.Equal(got, before[p]) {
				t.Errorf("the state at %d is %v, not %v as before", p, got, before[p])
			}
		}
	})
}

// TestStateBehindLateRedaction: a redaction that waited for its target gets its place only then, though the state before it is
// an old one.
func TestStateBehindLateRedaction(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		f := fork(t, one, two, "10")
		target := f.message(f.last(), "@bob:two.test", "to be redacted")
		redaction := f.forge(f.last(), event.Proto{Type: event.TypeRedaction, Redacts: target.ID, Sender: "@bob:two.test", Content: json.RawMessage(`{}`)})
		f.deliver(redaction)
		f.set("m.room.topic", "", `{"topic":"later"}`)
		f.deliver(target)
		list, states := f.timeline(), f.positions()
		last := list[len(list)-1]
		f.view(func(tx *store.Tx, r *store.Room) error {
			if got, want := states[last.Position], f.now(tx, r); !maps.Equal(got, want) {
				t.Errorf("the state is %v, not %v", got, want)
			}
			return nil
		})
		if last.ID != redaction.ID {
			t.Error("the redaction is not the last event")
		}
	})
}
