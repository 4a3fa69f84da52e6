package room

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
)

// TestTurnsComeInOrder: of those who wait for a server's turn in a room, the one who has waited longest gets it, those who
// have gone do not, and other servers do not wait.
func TestTurnsComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &live{}
		done, err := l.turn(t.Context(), "one.test")
		if err != nil {
			t.Fatal(err)
		}
		other, err := l.turn(t.Context(), "other.test")
		if err != nil {
			t.Fatal(err)
		}
		other()
		gone, cancel := context.WithCancel(t.Context())
		var order []int
		for i := range 10 {
			ctx := t.Context()
			if i%3 == 1 {
				ctx = gone
			}
			go func() {
				done, err := l.turn(ctx, "one.test")
				if (err != nil) != (ctx == gone) {
					t.Errorf("waiter %d: %v", i, err)
				}
				if err == nil {
					order = append(order, i)
					done()
				}
			}()
			synctest.Wait()
		}
		cancel()
		synctest.Wait()
		done()
		synctest.Wait()
		if want := []int{0, 2, 3, 5, 6, 8, 9}; !slices.Equal(order, want) || len(l.turns) != 0 {
			t.Errorf("turns came in the order %v, not %v; %d are not given back", order, want, len(l.turns))
		}
	})
}
