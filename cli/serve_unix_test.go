//go:build unix

package cli

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/securecomm/securecomm/homeserver/sign"
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

// says is a log that tells when it has said something.
type says struct {
	what string
	said chan struct{}
}

func (s *says) Write(line []byte) (int, error) {
	if s.what != "" && bytes.Contains(line, []byte(s.what)) {
		s.what = ""
		close(s.said)
	}
	return len(line), nil
}

// TestHangupWhileStarting has the process be told to reload before the server is there to do it: the start waits for its
// key, which nobody has written into the pipe yet.
func TestHangupWhileStarting(t *testing.T) {
	dir := t.TempDir()
	if _, err := sign.LoadOrCreate(filepath.Join(dir, "a.key")); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "a.key"))
	if err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "signing.key")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "new-server"), nil, 0o600); err != nil { // since there is a key, but no database
		t.Fatal(err)
	}
	log := &says{"told to reload", make(chan struct{})}
	ready := &says{"first one registers", make(chan struct{})}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan int, 1)
	go func() {
		ended <- Run(ctx, []string{
			"serve", "--server.name", "one.test", "--server.data_dir", dir, "--federation.enabled=false", "--listen.client", "127.0.0.1:0", "--log.level", "info",
		}, Stdio{In: strings.NewReader(""), Out: ready, Err: io.MultiWriter(log, t.Output()), Env: []string{}})
	}()
	w, err := os.OpenFile(pipe, os.O_WRONLY, 0) // once the server reads from it
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	<-log.said
	if err := os.Rename(filepath.Join(dir, "a.key"), pipe); err != nil { // where it is read once more
		t.Error(err)
	}
	if _, err := w.Write(key); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	<-ready.said
	stop()
	if code := <-ended; code != exitOK {
		t.Errorf("the server ended with %d", code)
	}
}
