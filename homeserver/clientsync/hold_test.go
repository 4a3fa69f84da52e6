package clientsync

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestHoldIsBounded: requests that are never answered hold a sync for a while, all of them together.
func TestHoldIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never, done := make(chan struct{}), make(chan struct{})
		close(done)
		began := time.Now()
		if err := hold(t.Context(), []<-chan struct{}{done, never, never, done}); err != nil || time.Since(began) != maxEcho {
			t.Errorf("held for %v, %v", time.Since(began), err)
		}
		began = time.Now()
		if err := hold(t.Context(), []<-chan struct{}{done, done}); err != nil || time.Since(began) != 0 {
			t.Errorf("answered requests hold for %v, %v", time.Since(began), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := hold(ctx, []<-chan struct{}{never}); err == nil {
			t.Error("a client that has gone is waited for")
		}
	})
}
