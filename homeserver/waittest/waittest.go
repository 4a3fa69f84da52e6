// Package waittest has tests wait for what must come, and fail with a sentence if it never does. A test that hangs costs its
// package's time and names nothing.
//
// Tests of all packages call it. It knows nothing of what they wait for.
package waittest

import (
	"testing"
	"time"
)

// limit is far beyond what anything takes that comes at all.
const limit = time.Minute

// Until waits until something is so.
func Until(t testing.TB, what string, so func() bool) {
	t.Helper()
	end, tick := time.After(limit), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("it never comes to that: %s", what)
		}
	}
}

// Get waits for what comes out of a channel, or for its end.
func Get[T any](t testing.TB, what string, from <-chan T) (value T) {
	t.Helper()
	select {
	case value = <-from:
	case <-time.After(limit):
		t.Fatalf("this never comes: %s", what)
	}
	return value
}
