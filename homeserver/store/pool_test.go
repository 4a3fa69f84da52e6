package store_test

import (
	"context"
	"runtime"
	"sync"
	"testing"

	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestReadersAreShared: who asks for much has half of the readers, the others do not wait behind all that was asked before,
// and who goes while waiting takes nothing along.
func TestReadersAreShared(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) { // of four readers
		asking := func(who string) context.Context { return context.WithValue(t.Context(), store.Asker{}, who) }
		var done sync.WaitGroup
		entered, release := make(chan string), make(chan struct{})
		read := func(who string) {
			done.Go(func() {
				if err := db.View(asking(who), func(*store.Tx) error { entered <- who; <-release; return nil }); err != nil {
					t.Error(err)
				}
			})
		}
		for range 20 {
			read("greedy")
		}
		for range 2 {
			<-entered
		}
		for range 2 {
			if read("modest"); <-entered != "modest" {
				t.Fatal("the greedy one has more than half")
			}
		}
		gone, leave := context.WithCancel(asking("gone"))
		left := make(chan error)
		go func() { left <- db.View(gone, func(*store.Tx) error { return nil }) }()
		read("late")
		leave()
		if err := <-left; err == nil {
			t.Error("who has gone was served")
		}
		for db.WaitingReaders() < 19 {
			runtime.Gosched()
		}
		release <- struct{}{}
		release <- struct{}{}
		order := []string{<-entered, <-entered}
		if order[0] != "late" && order[1] != "late" {
			t.Errorf("next are %q", order)
		}
		go func() {
			for range entered {
			}
		}()
		close(release)
		done.Wait()
		close(entered)
	})
}
