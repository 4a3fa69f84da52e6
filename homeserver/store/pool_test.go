package store_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

// TestReadersAreShared: who asks for much has half of the readers, the others do not wait behind all that was asked before,
// and who goes while waiting takes nothing along.
func TestReadersAreShared(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) { // of four readers
		asking := func(who string) context.Context { return context.WithValue(t.Context(), store.Asker{}, who) }
		var done sync.WaitGroup
		entered, release := make(chan string), map[string]chan struct{}{"greedy": make(chan struct{}), "modest": make(chan struct{}), "late": make(chan struct{})}
		read := func(who string) {
			done.Go(func() {
				if err := db.View(asking(who), func(*store.Tx) error { entered <- who; <-release[who]; return nil }); err != nil {
					t.Error(err)
				}
			})
		}
		next := func() string {
			t.Helper()
			return waittest.Get(t, "another reader", entered)
		}
		defer func() {
			go func() {
				for range entered {
				}
			}()
			for _, all := range release {
				close(all)
			}
			done.Wait()
			close(entered)
		}()
		for range 20 {
			read("greedy")
		}
		for range 2 {
			next()
		}
		for range 2 {
			if read("modest"); next() != "modest" {
				t.Fatal("the greedy one has more than half")
			}
		}
		gone, leave := context.WithCancel(asking("gone"))
		left := make(chan error, 1)
		go func() { left <- db.View(gone, func(*store.Tx) error { return nil }) }()
		waiting := func(n int) {
			t.Helper()
			waittest.Until(t, fmt.Sprint(n, " wait for a reader"), func() bool { return db.WaitingReaders() == n })
		}
		waiting(19)
		read("late")
		waiting(20)
		leave()
		if err := waittest.Get(t, "the end of who has gone", left); err == nil {
			t.Error("who has gone was served")
		}
		waiting(19)
		for range 2 {
			release["greedy"] <- struct{}{}
		}
		if order := []string{next(), next()}; order[0] != "late" && order[1] != "late" {
			t.Errorf("next are %q", order)
		}
	})
}
