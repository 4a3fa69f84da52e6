package store_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestCheckReadWaitsForNobody has all readers be in use for as long as the database is asked whether it can be read.
func TestCheckReadWaitsForNobody(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		const readers = 2
		db, err := store.Open(t.Context(), store.Options{URL: address, Readers: readers, Alone: true, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		taken, release, done := make(chan error, readers), make(chan struct{}), make(chan error, readers)
		for range readers {
			go func() {
				done <- db.View(context.Background(), func(tx *store.Tx) error {
					_, err := tx.Position()
					taken <- err
					<-release
					return err
				})
			}()
		}
		for range readers {
			if err := <-taken; err != nil {
				t.Error(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for range 3 {
			if err := db.CheckRead(ctx); err != nil {
				t.Errorf("while all readers are in use: %v", err)
			}
		}
		close(release)
		for range readers {
			<-done
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}
