package store

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
)

// TestChainIsReadOnce reads the newest state of a long chain: those before it come with it, so that none of them costs
// a query of its own.
func TestChainIsReadOnce(t *testing.T) {
	address, ctx := filepath.Join(t.TempDir(), "states.db"), context.Background()
	db, err := Open(ctx, Options{URL: address, Readers: 1})
	if err != nil {
		t.Fatal(err)
	}
	var whole []StateChange
	for k := range int64(50) {
		whole = append(whole, StateChange{k + 1, 1})
	}
	err = db.Update(ctx, func(tx *Tx) error {
		var last Snapshot
		for i := range maxChain + 1 {
			n := last.Next(StateNID(i+1), whole)
			if err := tx.States.Insert(1, n, last.NID, whole); err != nil {
				return err
			}
			last, whole = n, []StateChange{{int64(i%50) + 1, EventNID(i + 100)}}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = Open(ctx, Options{URL: address, Readers: 1}); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(ctx, func(tx *Tx) error {
		newest, err := tx.States.Get(maxChain + 1)
		if err != nil || newest.Chain != maxChain || newest.Map.Len() != 50 {
			return fmt.Errorf("the newest state has %d pieces: %w", newest.Map.Len(), err)
		}
		for n := StateNID(2); n <= maxChain+1; n++ {
			m, ok := db.cache.states.GetIfPresent(n)
			if !ok || m.Get(int64((n-2)%50)+1) != EventNID(n+98) {
				t.Errorf("state %d is not in memory as it was written: %v", n, ok)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
