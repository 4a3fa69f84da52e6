package store

import (
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// TestStateMap holds the persistent map against Go's own, versions of it against each other, and Diff
// against a comparison key by key.
func TestStateMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m StateMap
		model := map[int64]EventNID{}
		versions, models := []StateMap{m}, []map[int64]EventNID{{}}
		keys := rapid.OneOf(rapid.Int64Range(1, 100), rapid.Int64Range(1, 1<<40))
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			key, event := keys.Draw(t, "key"), EventNID(rapid.Int64Range(0, 5).Draw(t, "event"))
			m = m.Set(key, event)
			if model[key] = event; event == 0 {
				delete(model, key)
			}
			versions, models = append(versions, m), append(models, maps.Clone(model))
		}
		for i, v := range versions {
			got := map[int64]EventNID{}
			for k, e := range v.All {
				got[k] = e
				if v.Get(k) != e {
					t.Fatalf("Get(%d) is %d, All says %d", k, v.Get(k), e)
				}
			}
			if !maps.Equal(got, models[i]) || v.Len() != len(models[i]) {
				t.Fatalf("version %d is %v (%d), want %v", i, got, v.Len(), models[i])
			}
		}
		i := rapid.IntRange(0, len(versions)-1).Draw(t, "other")
		want := map[int64][2]EventNID{}
		for k, e := range model {
			if o := models[i][k]; o != e {
				want[k] = [2]EventNID{e, o}
			}
		}
		for k, o := range models[i] {
			if model[k] == 0 {
				want[k] = [2]EventNID{0, o}
			}
		}
		got := map[int64][2]EventNID{}
		m.Diff(versions[i], func(k int64, mine, others EventNID) {
			if _, twice := got[k]; twice {
				t.Fatalf("key %d came twice", k)
			}
			got[k] = [2]EventNID{mine, others}
		})
		if !maps.Equal(got, want) {
			t.Fatalf("Diff says %v, want %v", got, want)
		}
	})
}
