package homeserver

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlowReaders: after a long poll, nothing is read of an answer, or too little, or just enough.
func TestSlowReaders(t *testing.T) {
	const size = 4 << 20
	for name, test := range map[string]struct {
		piece int
		every time.Duration
		cut   time.Duration // when; 0: never
	}{
		"nothing":     {0, 0, readingPause},
		"a trickle":   {readingPiece, 21 * time.Second, 188 * time.Second}, // each piece comes 5 s too late
		"enough":      {readingPiece, readingPiece / readingSlowest * time.Second, 0},
		"with pauses": {size / 4, readingPause - time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				c := &reader{Conn: ours}
				time.Sleep(time.Hour)
				done := make(chan struct{})
				go func() {
					defer close(done)
					for err := error(nil); err == nil && test.piece > 0; _, err = io.CopyN(io.Discard, theirs, int64(test.piece)) {
						time.Sleep(test.every)
					}
				}()
				began := time.Now()
				n, err := c.Write(make([]byte, size))
				took := time.Since(began)
				if cut := test.cut > 0; cut != errors.Is(err, os.ErrDeadlineExceeded) || cut && took != test.cut || !cut && n != size {
					t.Errorf("wrote %d bytes in %s: %v", n, took, err)
				}
				_, _ = theirs.Close(), ours.Close()
				<-done
			})
		})
	}
}

// TestOwnDeadlines: a websocket says for itself how long its client may take.
func TestOwnDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, _ := net.Pipe()
		c := &reader{Conn: ours}
		began := time.Now()
		for _, own := range []time.Duration{time.Second, time.Hour} {
			if err := c.SetWriteDeadline(began.Add(own)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != own {
				t.Errorf("with a limit of %s: %v after %s", own, err, time.Since(began))
			}
		}
	})
}

// pipes is a listener of connections within a test.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (pipes) Close() error   { return nil }
func (pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestSlowReadersOfHTTP2: a client that reads other answers of a connection, but not this one, is cut off from this one.
// Long polls may wait.
func TestSlowReadersOfHTTP2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var only http.Protocols
		only.SetUnencryptedHTTP2(true)
		ended := make(chan time.Duration, 1)
		s := &http.Server{Protocols: &only, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p := &paced{ResponseWriter: w}
			defer p.end()
			if r.URL.Path == "/poll" {
				_, _ = p.Write([]byte("still "))
				time.Sleep(time.Hour)
				_, _ = p.Write([]byte("here"))
				return
			}
			began := time.Now()
			_, _ = p.Write(make([]byte, 16<<20))
			ended <- time.Since(began)
		})}
		listener := make(pipes)
		served := make(chan struct{})
		go func() { defer close(served); _ = s.Serve(listener) }()
		transport := &http.Transport{Protocols: &only, DialContext: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			listener <- ours
			return theirs, nil
		}}
		client := &http.Client{Transport: transport}
		slow, err := client.Get("http://here/large")
		if err != nil {
			t.Fatal(err)
		}
		poll, err := client.Get("http://here/poll")
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := io.ReadAll(poll.Body); err != nil || string(raw) != "still here" {
			t.Errorf("a long poll: %q, %v", raw, err)
		}
		if took := <-ended; took < readingPause || took > 30*time.Minute {
			t.Errorf("cut off after %s", took)
		}
		_, _ = slow.Body.Close(), poll.Body.Close()
		transport.CloseIdleConnections()
		close(listener)
		<-served
		_ = s.Close()
	})
}
