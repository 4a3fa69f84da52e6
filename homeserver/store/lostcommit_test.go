package store_test

import (
	"bytes"
	"net"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// cutter stands between a store and PostgreSQL, and can lose a connection in the middle of a commit.
type cutter struct {
	target string
	// armed is when the next commit loses its connection: 0 not at all, or one of these.
	armed atomic.Int32
	cuts  atomic.Int32
}

const (
	beforeCommit = 1 + iota // the database does not hear of it
	afterCommit             // its answer gets lost
)

func (c *cutter) serve(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		go c.pass(client)
	}
}

func (c *cutter) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", c.target)
	if err != nil {
		return
	}
	defer server.Close()
	var lost atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if err != nil {
				return
			}
			if lost.Load() {
				client.Close() // the answer to the commit: it is carried out
				return
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			break
		}
		if bytes.Contains(buf[:n], []byte("COMMIT\x00")) {
			switch c.armed.Swap(0) {
			case beforeCommit:
				c.cuts.Add(1)
				return
			case afterCommit:
				c.cuts.Add(1)
				lost.Store(true)
			}
		}
		if _, err := server.Write(buf[:n]); err != nil {
			break
		}
	}
	if lost.Load() {
		<-done
	}
}

// TestLostCommits: an update whose commit was not answered is carried out once, whether it had been carried out or not.
func TestLostCommits(t *testing.T) {
	u, err := url.Parse(storetest.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := &cutter{target: u.Host}
	go c.serve(l)
	u.Host = l.Addr().String()
	db := storetest.Open(t, u.String())
	grow := func(tx *store.Tx) error {
		content, _, err := tx.AccountData.Get("@alice:one.test", "", "logged")
		tx.AccountData.Set("@alice:one.test", "", "logged", append(content, 'x'))
		return err
	}
	quiet := func(tx *store.Tx) error {
		fact, err := tx.Fact("quiet")
		if err != nil {
			return err
		}
		return tx.SetFact("quiet", fact+"x")
	}
	for i, when := range []int32{beforeCommit, afterCommit, afterCommit, beforeCommit} {
		for _, fn := range []func(*store.Tx) error{grow, quiet} {
			c.armed.Store(when)
			if err := db.Update(t.Context(), fn); err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
		}
	}
	if c.cuts.Load() != 8 {
		t.Errorf("%d commits were lost on the way", c.cuts.Load())
	}
	err = db.View(t.Context(), func(tx *store.Tx) error {
		content, _, err := tx.AccountData.Get("@alice:one.test", "", "logged")
		if err != nil {
			return err
		}
		fact, err := tx.Fact("quiet")
		if string(content) != "xxxx" || fact != "xxxx" {
			t.Errorf("four updates each were carried out as %q and %q", content, fact)
		}
		position, err := tx.Position()
		if position != db.Hub.Current() {
			t.Errorf("the log is at %d, readers know of %d", position, db.Hub.Current())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
