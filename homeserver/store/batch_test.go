package store_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// TestUpdatesSeeThoseBefore has updates of one batch that read what the ones before have logged, among them ones that fail.
func TestUpdatesSeeThoseBefore(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		first := db.Hub.Current()
		// While the first update runs, the others queue up and become one batch.
		entered, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		waits := []func() error{queue(t, db, func(*store.Tx) error {
			once.Do(func() { close(entered); <-release })
			return nil
		})}
		<-entered
		const n = 12
		for i := range n {
			waits = append(waits, queue(t, db, func(tx *store.Tx) error {
				content, _, err := tx.AccountData.Get("@alice:one.test", "", "count")
				if err != nil {
					return err
				}
				receipt, _, err := tx.Receipts.Get(1, "@alice:one.test", "m.read", "")
				if err != nil {
					return err
				}
				tx.AccountData.Set("@alice:one.test", "", "count", fmt.Appendf(nil, "%s%x", content, i))
				receipt.TS = 10*receipt.TS + 1
				receipt.Room, receipt.User, receipt.Type = 1, "@alice:one.test", "m.read"
				tx.Receipts.Set(receipt, "!r:one.test", nil)
				if i%4 == 3 {
					return fmt.Errorf("refused")
				}
				return nil
			}))
		}
		close(release)
		for i, wait := range waits {
			if err := wait(); (err != nil) != (i%4 == 0 && i > 0) {
				t.Errorf("update %d: %v", i, err)
			}
		}
		err := db.View(t.Context(), func(tx *store.Tx) error {
			list, err := tx.AccountData.ByRoom("@alice:one.test", "")
			if err != nil {
				return err
			}
			receipt, _, err := tx.Receipts.Get(1, "@alice:one.test", "m.read", "")
			if err != nil {
				return err
			}
			position, err := tx.Position()
			if err != nil {
				return err
			}
			const kept = stream.Position(9)
			if len(list) != 1 || string(list[0].Content) != "01245689a" || receipt.TS != 111_111_111 {
				t.Errorf("the updates left %+v and %+v", list, receipt)
			}
			if position != first+2*kept || receipt.Position != position || list[0].Position != position-1 {
				t.Errorf("the log went from %d to %d, the last ones are at %d and %d", first, position, list[0].Position, receipt.Position)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if changes, ok := db.Hub.Since(first, db.Hub.Current()); !ok || len(changes) != 18 {
			t.Errorf("%d changes were told of, %v", len(changes), ok)
		}
	})
}

func queue(t *testing.T, db *store.DB, fn func(*store.Tx) error) func() error {
	t.Helper()
	wait, err := db.Queue(t.Context(), fn)
	if err != nil {
		t.Fatal(err)
	}
	return wait
}

// TestProcessesSeeEachOther has two processes that change the same row at once.
func TestProcessesSeeEachOther(t *testing.T) {
	address := storetest.Postgres(t)
	dbs := []*store.DB{storetest.Open(t, address), storetest.Open(t, address)}
	const writers, each = 4, 25
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				err := dbs[w%2].Update(t.Context(), func(tx *store.Tx) error {
					content, _, err := tx.AccountData.Get("@alice:one.test", "", "count")
					tx.AccountData.Set("@alice:one.test", "", "count", append(content, 'x'))
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	err := dbs[0].View(t.Context(), func(tx *store.Tx) error {
		content, _, err := tx.AccountData.Get("@alice:one.test", "", "count")
		if len(content) != writers*each {
			t.Errorf("%d of %d changes are left", len(content), writers*each)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestErasedUsersKeepNothing has a write that was on its way when its user was erased.
func TestErasedUsersKeepNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		users := []id.UserID{"@erased:one.test", "@gone:one.test", "@alice:one.test"}
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			for _, u := range users {
				if _, err := tx.Users.Insert(store.User{ID: u}); err != nil {
					return err
				}
			}
			return errors.Join(tx.Users.Deactivate(users[0], true), tx.Users.Deactivate(users[1], false))
		})
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(t.Context(), func(tx *store.Tx) error {
			for i, u := range users {
				tx.AccountData.Set(u, "", "x", []byte("{}"))
				if n, err := tx.AccountData.Count(u); err != nil || n != min(i, 1) {
					t.Errorf("%s has %d pieces of account data, %v", u, n, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
