package clientsync_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/store"
)

func benchWorld(b *testing.B) *world {
	b.Helper()
	db, err := store.Open(context.Background(), store.Options{URL: filepath.Join(b.TempDir(), "bench.db")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	return newWorld(b, db)
}

// BenchmarkFanout is one message told to 100 devices that wait for it, from sending to the last answer.
func BenchmarkFanout(b *testing.B) {
	const readers = 100
	w := benchWorld(b)
	r := w.create("alice", room.Creation{})
	ctx, cancel := context.WithCancel(context.Background())
	var told, ended sync.WaitGroup
	for i := range readers {
		w.join(r, fmt.Sprintf("reader%d", i))
	}
	for i := range readers {
		c := w.client(fmt.Sprintf("reader%d", i), `{"presence":{"not_types":["*"]},"room":{"state":{"lazy_load_members":true},"timeline":{"limit":100}}}`)
		c.next()
		c.r.Timeout = time.Minute
		ended.Go(func() {
			for {
				a, err := w.sync.Sync(ctx, c.r)
				if err != nil {
					return
				}
				next := a.Next
				c.r.Since = &next
				told.Done()
			}
		})
	}
	b.Cleanup(func() { cancel(); ended.Wait() })
	told.Add(readers)
	w.say(r, "alice", "warm")
	told.Wait()
	b.ReportAllocs()
	for b.Loop() {
		told.Add(readers)
		w.say(r, "alice", "hello")
		told.Wait()
	}
}

// BenchmarkNext is the answer with one new message to one device.
func BenchmarkNext(b *testing.B) {
	w := benchWorld(b)
	r := w.create("alice", room.Creation{})
	w.join(r, "bob")
	c := w.client("bob", "")
	c.next()
	since := *c.r.Since
	w.say(r, "alice", "hello")
	b.ReportAllocs()
	for b.Loop() {
		c.r.Since = &since
		if _, err := w.sync.Sync(context.Background(), c.r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFirst is the first answer to a device in many rooms.
func BenchmarkFirst(b *testing.B) {
	w := benchWorld(b)
	var rooms []id.RoomID
	for i := range 100 {
		content := map[string]json.RawMessage{"n": json.RawMessage(fmt.Sprint(i))} // rooms made in one millisecond have to differ
		rooms = append(rooms, w.create("alice", room.Creation{CreationContent: content}))
	}
	for _, r := range rooms {
		for i := range 20 {
			w.say(r, "alice", fmt.Sprint(i))
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		w.client("alice", "").next()
	}
}
