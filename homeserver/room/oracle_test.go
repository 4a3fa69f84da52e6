package room_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/eventauth/roomtest"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestOracleAgreesOnAllEnds: whatever forks in whatever order, gomatrixserverlib says the same of all ends. Nobody takes
// anybody's power meanwhile, as in stateres' TestAgainstOracle, where it says why.
func TestOracleAgreesOnAllEnds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := pair(t, db)
		storetest.Check(t, func(t *rapid.T) {
			version, _ := event.VersionOf(rapid.SampledFrom([]id.RoomVersion{"1", "2", "6", "10", "11"}).Draw(t, "version"))
			random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
			f := fork(t, one, two, version.ID)
			f.set(event.TypePowerLevels, "", `{"users":{"@alice:one.test":100,"@bob:two.test":50}}`)
			past := []id.EventID{f.last()}
			for i := range 5 + random.IntN(30) {
				none, content := "", json.RawMessage(fmt.Sprintf(`{"x":%d}`, i))
				p := event.Proto{Type: []string{"m.room.topic", "m.room.name", "test.calm"}[random.IntN(3)], StateKey: &none, Sender: "@bob:two.test", Content: content}
				switch random.IntN(8) {
				case 0:
					f.set(p.Type, "", string(content))
					past = append(past, f.last())
				case 1, 2:
					p.Type, p.StateKey = "m.room.message", nil
					fallthrough
				default:
					ev := f.forge(past[random.IntN(min(len(past), 10))], p)
					f.deliver(ev)
					past = append(past, ev.ID)
				}
			}
			list := f.timeline()
			ends := endsOf(list)
			f.view(func(tx *store.Tx, r *store.Room) error {
				var all []*event.Event
				for _, ev := range list {
					all = append(all, ev.Event)
				}
				var sets []map[event.StateKeyTuple]id.EventID
				for _, i := range ends {
					sets = append(sets, f.after(tx, source{f, tx}.get(i)))
				}
				if len(sets) == 1 {
					sets = append(sets, sets[0]) // the oracle takes no less
				}
				want, err := roomtest.Oracle(version, all, sets)
				if now := f.now(tx, r); err != nil || !maps.Equal(now, want) {
					f.Fatalf("the state of %d ends is %v, the oracle says %v, %v", len(ends), now, want, err)
				}
				return nil
			})
		})
	})
}
