package store_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestOrderOfGaps: each origin has two gaps in a list, those that were tried least often and of these those that lead furthest
// back; the origin comes first of which the fewest were tried in vain; what was tried often rests.
func TestOrderOfGaps(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStates(t, db)
		// From the newest child to the oldest.
		for i, name := range []string{"evil4", "evil3", "good2", "good1", "evil2", "evil1"} {
			nid := store.EventNID(number(t, db))
			s.update(func(tx *store.Tx) error {
				e := &event.Event{ID: id.EventID(fmt.Sprint("$child", i)), JSON: []byte("{}")}
				if err := tx.Events.Prepend(&store.Event{Event: e, NID: nid, Room: s.room}); err != nil {
					return err
				}
				return tx.Relations.AddMissing(s.room, store.Missing{ID: id.EventID(name), Child: nid, Origin: name[:4] + ".example"})
			})
		}
		now := time.Now()
		expect := func(when string, now time.Time, limit int, want ...id.EventID) {
			t.Helper()
			err := db.View(t.Context(), func(tx *store.Tx) error {
				gaps, err := tx.Relations.Missing(s.room, limit, now)
				var got []id.EventID
				for _, g := range gaps {
					got = append(got, g.ID)
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s: %v, not %v", when, got, want)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		tried := func(times int, ids ...id.EventID) {
			t.Helper()
			for range times {
				s.update(func(tx *store.Tx) error { return tx.Relations.Tried(s.room, ids, now) })
			}
		}
		expect("at first", now, 10, "evil1", "evil2", "good1", "good2")
		expect("one", now, 1, "evil1")
		tried(1, "evil1")
		expect("when one was tried in vain", now, 10, "good1", "good2", "evil2", "evil3")
		tried(8, "good1", "good2")
		expect("while what was tried often rests", now, 10, "evil2", "evil3")
		expect("some time later", now.Add(time.Hour), 10, "evil2", "evil3", "good1", "good2")
		expect("when the clock was set back", now.Add(-time.Hour), 10, "evil2", "evil3", "good1", "good2")
	})
}
