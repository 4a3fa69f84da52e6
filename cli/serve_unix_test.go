//go:build unix

package cli

import (
	"syscall"
	"testing"
)

// TestHangup has the process be told to reload, twice.
func TestHangup(t *testing.T) {
	reloaded := make(chan struct{})
	stop := onHangup(func() { reloaded <- struct{}{} })
	defer stop()
	for range 2 {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		<-reloaded
	}
}
