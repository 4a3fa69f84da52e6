package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

func TestUpdateIsAllOrNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		boom := errors.New("boom")
		err := db.Update(ctx, func(tx *store.Tx) error {
			if err := tx.SetFact("a", "1"); err != nil {
				return err
			}
			return boom
		})
		if !errors.Is(err, boom) {
			t.Fatalf("got %v", err)
		}
		err = db.View(ctx, func(tx *store.Tx) error {
			if v, err := tx.Fact("a"); err != nil || v != "" {
				t.Errorf("a failed update left %q, %v", v, err)
			}
			if err := tx.SetFact("b", "1"); err == nil {
				t.Error("a view could write")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// TestFailuresHurtNoOther mixes updates that fail in every way with ones that must succeed.
func TestFailuresHurtNoOther(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		const n = 60
		errs := make([]error, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				errs[i] = db.Update(ctx, func(tx *store.Tx) error {
					if err := tx.SetFact(fmt.Sprint("key", i), "x"); err != nil {
						return err
					}
					switch i % 6 {
					case 1:
						return errors.New("refused")
					case 2:
						panic("a bug")
					case 3: // fails when flushed
						tx.Log(stream.Change{Kind: stream.Profile}, func(stream.Position) error { return errors.New("late") })
					case 4:
						tx.Log(stream.Change{Kind: stream.Profile}, func(stream.Position) error { panic("a late bug") })
					}
					return nil
				})
			})
		}
		wg.Wait()
		err := db.View(ctx, func(tx *store.Tx) error {
			for i := range n {
				bad := i%6 >= 1 && i%6 <= 4
				v, err := tx.Fact(fmt.Sprint("key", i))
				if err != nil {
					return err
				}
				if (errs[i] != nil) != bad || (v == "") != bad {
					t.Errorf("update %d: %v, wrote %q", i, errs[i], v)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// TestPositions has several processes' worth of writers and one reader who must never miss a position.
func TestPositions(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		dbs := []*store.DB{storetest.Open(t, address)}
		if t.Name() == "TestPositions/postgres" {
			dbs = append(dbs, storetest.Open(t, address), storetest.Open(t, address))
		}
		began := dbs[len(dbs)-1].Epoch().First
		ctx := context.Background()
		const writers, each = 8, 40
		var wg sync.WaitGroup
		for w := range writers {
			db := dbs[w%len(dbs)]
			wg.Go(func() {
				for range each {
					err := db.Update(ctx, func(tx *store.Tx) error {
						for range 2 {
							tx.Log(stream.Change{Kind: stream.Profile}, func(p stream.Position) error {
								return tx.SetFact(fmt.Sprint("p", p), "x")
							})
						}
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		finished := make(chan struct{})
		go func() { wg.Wait(); close(finished) }()
		read := began
		for done := false; !done; {
			select {
			case <-finished:
				done = true
			default:
			}
			err := dbs[0].View(ctx, func(tx *store.Tx) error {
				upto, err := tx.Position()
				if err != nil {
					return err
				}
				for ; read < upto; read++ {
					if v, err := tx.Fact(fmt.Sprint("p", read+1)); err != nil || v == "" {
						return fmt.Errorf("position %d of %d is not there: %w", read+1, upto, err)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if want := stream.Position(2 * writers * each); read-began != want {
			t.Errorf("read %d positions, want %d", read-began, want)
		}
	})
}

// TestOtherProcessesChanges has two processes on one database: neither may take the other's positions for empty ones.
func TestOtherProcessesChanges(t *testing.T) {
	address := storetest.Postgres(t)
	a, b := storetest.Open(t, address), storetest.Open(t, address)
	write := func(db *store.DB) {
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			tx.Log(stream.Change{Kind: stream.Profile}, func(stream.Position) error { return nil })
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	first := b.Epoch().First + 1
	write(a)
	write(b)
	if got, ok := a.Hub.Since(first, first+1); ok {
		t.Errorf("the other's change was given as %d changes", len(got))
	}
	write(a)
	if got, ok := a.Hub.Since(first, first+2); ok {
		t.Errorf("two changes were given as %d", len(got))
	}
	if got, ok := a.Hub.Since(first+1, first+2); !ok || len(got) != 1 {
		t.Errorf("one's own change behind the other's: %d, %v", len(got), ok)
	}
}

// TestText has text that PostgreSQL does not take: names of pieces of state may have it, nothing else, on both databases.
func TestText(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		db, ctx := storetest.Open(t, address), t.Context()
		names := []event.StateKeyTuple{{Type: "t", StateKey: "a"}, {Type: "t", StateKey: "a\x00b"}, {Type: "t\x00", StateKey: "\x01"}, {Type: "t", StateKey: "a\x010b"}}
		keys, err := db.StateKeys(ctx, names)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		again := storetest.Open(t, address) // without anything in memory
		err = again.View(ctx, func(tx *store.Tx) error {
			for _, name := range names {
				key := keys[name]
				got, err := tx.States.Tuples([]int64{key})
				if err != nil || got[key] != name {
					t.Errorf("%q became %q, %v", name, got[key], err)
				}
			}
			for name, key := range keys {
				if found, err := tx.States.FindKey(name); err != nil || found == 0 || found != key {
					t.Errorf("%q has the number %d and not %d: %v", name, found, key, err)
				}
			}
			if _, err := tx.Fact("a\x00b"); !errors.Is(err, store.ErrText) {
				t.Errorf("reading by a name with a NUL: %v", err)
			}
			_, err := tx.Fact("a")
			return err
		})
		if err != nil {
			t.Error(err)
		}
		for _, bad := range []string{"\x00", "\xff"} {
			if err := again.Update(ctx, func(tx *store.Tx) error { return tx.SetFact("a", bad) }); !errors.Is(err, store.ErrText) || errors.Is(err, store.ErrUnavailable) {
				t.Errorf("writing %q: %v", bad, err)
			}
		}
	})
}

func TestNumbersAreUnique(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		a := storetest.Open(t, address)
		seen := map[int64]bool{}
		for i := range 3 {
			b := storetest.Open(t, address) // as after a restart
			for _, db := range []*store.DB{a, b} {
				for range 5000 {
					n, err := db.NextNumber(context.Background())
					if err != nil || seen[n] || n <= 0 {
						t.Fatalf("round %d: %d, %v", i, n, err)
					}
					seen[n] = true
				}
			}
		}
	})
}

func TestClosed(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		db, err := store.Open(context.Background(), store.Options{URL: address})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if err := db.Update(context.Background(), func(*store.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
			t.Errorf("got %v", err)
		}
		if err := db.View(context.Background(), func(*store.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}
