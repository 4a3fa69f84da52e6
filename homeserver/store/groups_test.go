package store_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// TestSumsOfRelations adds relations at the end of a room and in its past, some of them shown later than they came or
// never, and redacts others: what is summed up is what one finds counting, at any time.
func TestSumsOfRelations(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		rapid.Check(t, func(t *rapid.T) {
			room, other := store.RoomNID(number(t, db)), store.RoomNID(number(t, db))
			parents, senders := []id.EventID{"$a", "$b", "$c"}, []id.UserID{"@x:one.test", "@y:one.test", "@z:one.test"}
			all := map[store.EventNID]store.Relation{}
			newest, oldest := stream.Position(0), stream.Position(0)
			place := func() stream.Position {
				if rapid.Bool().Draw(t, "past") {
					oldest--
					return oldest
				}
				newest++
				return newest
			}
			update := func(fn func(tx *store.Tx) error) {
				if err := db.Update(context.Background(), fn); err != nil {
					t.Fatal(err)
				}
			}
			nids := func() []store.EventNID { return slices.Sorted(maps.Keys(all)) }
			t.Repeat(map[string]func(*rapid.T){
				"insert": func(t *rapid.T) {
					r := store.Relation{
						Event: store.EventNID(number(t, db)), Parent: rapid.SampledFrom(parents).Draw(t, "parent"), Type: "m.room.message",
						RelType: rapid.SampledFrom([]string{"m.thread", "m.thread", "m.replace", "m.reference", "m.annotation"}).Draw(t, "way"),
						Sender:  rapid.SampledFrom(senders).Draw(t, "sender"),
					}
					if rapid.IntRange(0, 3).Draw(t, "shown") > 0 {
						r.Position = place()
					}
					all[r.Event] = r
					update(func(tx *store.Tx) error { return tx.Relations.Insert(room, r) })
				},
				"insert again": func(t *rapid.T) {
					if len(all) == 0 {
						t.Skip()
					}
					r := all[rapid.SampledFrom(nids()).Draw(t, "which")]
					if r.Position == 0 {
						r.Position = place()
					}
					all[r.Event] = r
					update(func(tx *store.Tx) error { return tx.Relations.Insert(room, r) })
				},
				"redact": func(t *rapid.T) {
					if len(all) == 0 {
						t.Skip()
					}
					nid := rapid.SampledFrom(nids()).Draw(t, "which")
					delete(all, nid)
					update(func(tx *store.Tx) error { return tx.Relations.Delete(nid) })
				},
				"": func(t *rapid.T) {
					compareSums(t, db, room, parents, senders, all)
					compareSums(t, db, other, parents, senders, nil)
				},
			})
		})
	})
}

// compareSums compares what is summed up with what relates.
func compareSums(t *rapid.T, db *store.DB, room store.RoomNID, parents []id.EventID, senders []id.UserID, all map[store.EventNID]store.Relation) {
	groups, answers := map[string]store.RelationGroup{}, map[string]int64{}
	for _, r := range all {
		if r.Position == 0 || r.RelType == "m.annotation" {
			continue
		}
		key := string(r.Parent) + r.RelType
		g, known := groups[key]
		if !known {
			g = store.RelationGroup{Parent: r.Parent, RelType: r.RelType, Last: math.MinInt64}
		}
		g.Count, g.Last = g.Count+1, max(g.Last, r.Position)
		groups[key] = g
		if r.RelType == "m.thread" {
			answers[string(r.Parent)+string(r.Sender)]++
		}
	}
	var threads []store.Thread
	for _, g := range groups {
		if g.RelType == "m.thread" {
			threads = append(threads, store.Thread{Root: g.Parent, Last: g.Last})
		}
	}
	slices.SortFunc(threads, func(a, b store.Thread) int { return int(b.Last - a.Last) })
	err := db.View(context.Background(), func(tx *store.Tx) error {
		got, err := tx.Relations.Groups(room, parents)
		if err != nil {
			return err
		}
		found := map[string]store.RelationGroup{}
		for _, g := range got {
			found[string(g.Parent)+g.RelType] = g
		}
		answered, err := tx.Relations.Answered(room, parents, senders)
		if err != nil {
			return err
		}
		counts := map[string]int64{}
		for _, a := range answered {
			counts[string(a.Root)+string(a.Sender)] = a.Count
		}
		listed, err := tx.Relations.Threads(room, math.MaxInt64, 10)
		if !maps.Equal(found, groups) || len(got) != len(groups) {
			t.Errorf("groups are %v, not %v", found, groups)
		}
		if !maps.Equal(counts, answers) {
			t.Errorf("answered are %v, not %v", counts, answers)
		}
		if fmt.Sprint(listed) != fmt.Sprint(threads) {
			t.Errorf("threads are %v, not %v", listed, threads)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
