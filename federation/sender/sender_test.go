package sender_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/securecomm/securecomm/federation/federationtest"
	"github.com/securecomm/securecomm/federation/sender"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

const destination id.ServerName = "two.test"

// other is the server that is delivered to.
type other struct {
	t      *testing.T
	mu     sync.Mutex
	ids    []string // of transactions, also of those that were not answered
	bodies []string
	taken  []string // the units of answered transactions, in order
	answer func(r *http.Request, units []string) int
	came   chan struct{}
}

func newOther(t *testing.T) *other { return &other{t: t, came: make(chan struct{}, 1000)} }

func (o *other) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	var body struct {
		PDUs []json.RawMessage
		EDUs []struct{ Content struct{ Name string } }
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	var units []string
	for range body.PDUs {
		units = append(units, "event")
	}
	for _, e := range body.EDUs {
		units = append(units, e.Content.Name)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ids = append(o.ids, r.URL.Path)
	o.bodies = append(o.bodies, string(raw))
	status := http.StatusOK
	if o.answer != nil {
		status = o.answer(r, units)
	}
	defer func() { o.came <- struct{}{} }()
	if status == 0 {
		panic(http.ErrAbortHandler)
	}
	if status == http.StatusOK {
		o.taken = append(o.taken, units...)
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `{"pdus":{}}`)
}

// wait waits for so many requests.
func (o *other) wait(requests int) {
	o.t.Helper()
	for i := range requests {
		waittest.Get(o.t, fmt.Sprintf("request %d of %d", i+1, requests), o.came)
	}
}

func (o *other) got() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.taken)
}

func start(t *testing.T, db *store.DB, n *federationtest.Net, pause time.Duration) *sender.Sender {
	t.Helper()
	key, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	s := &sender.Sender{Store: db, Client: n.Client(t, "us.test", key), Log: slog.New(slog.DiscardHandler), MinPause: pause, SettleFor: time.Hour, Patience: time.Hour}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func edu(name string) json.RawMessage {
	return json.RawMessage(`{"edu_type":"test","content":{"name":"` + name + `"}}`)
}

// queue may be called from any goroutine.
func queue(t *testing.T, db *store.DB, names ...string) {
	t.Helper()
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		for _, name := range names {
			tx.Outbox.AddEDU([]id.ServerName{destination}, store.DataUnit{JSON: edu(name)})
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// until looks again and again until something is so. Neither the outbox nor the list of failing servers wakes anybody
// when it gets shorter or longer, so there is nothing to wait for.
func until(what func() bool) {
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for !what() {
		<-look.C
	}
}

func numbered(from, to int) (names []string) {
	for i := from; i < to; i++ {
		names = append(names, fmt.Sprint(i))
	}
	return names
}

// empty waits until the outbox is: it is emptied a moment after the other server has answered.
func empty(t *testing.T, db *store.DB) {
	t.Helper()
	until(func() bool {
		var left []id.ServerName
		err := db.View(t.Context(), func(tx *store.Tx) (err error) {
			left, err = tx.Outbox.Destinations()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return len(left) == 0
	})
}

func TestDeliversInOrder(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n, two := federationtest.New(t, "two.test", "us.test"), newOther(t)
		n.Serve(destination, two)
		queue(t, db, numbered(0, 101)...) // one more than fits into a transaction
		start(t, db, n, time.Hour)
		two.wait(2)
		queue(t, db, "101") // while it runs
		two.wait(1)
		if got := two.got(); !slices.Equal(got, numbered(0, 102)) {
			t.Errorf("got %v", got)
		}
		empty(t, db)
		if slices.Sort(two.ids); len(slices.Compact(two.ids)) != 3 {
			t.Errorf("the transactions' IDs are %v", two.ids)
		}
	})
}

func TestOutageAndRestart(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n, two := federationtest.New(t, "two.test", "us.test"), newOther(t)
		two.answer = func(*http.Request, []string) int { return http.StatusServiceUnavailable }
		n.Serve(destination, two)
		first := start(t, db, n, time.Millisecond)
		queue(t, db, numbered(0, 3)...)
		two.wait(3)
		first.Close()
		var failing []store.Destination
		err := db.View(t.Context(), func(tx *store.Tx) (err error) {
			failing, err = tx.Destinations.Failing()
			return err
		})
		if err != nil || len(failing) != 1 || failing[0].Failures < 2 || failing[0].FailingSince == 0 {
			t.Fatalf("what is remembered of the outage: %+v, %v", failing, err)
		}
		queue(t, db, numbered(3, 5)...) // while the sender is down
		two.mu.Lock()
		two.answer = nil
		two.mu.Unlock()
		start(t, db, n, time.Millisecond)
		empty(t, db)
		if got := two.got(); !slices.Equal(got, numbered(0, 5)) {
			t.Errorf("got %v", got)
		}
	})
}

func TestRepeatsTheSameTransaction(t *testing.T) {
	db := storetest.Open(t, t.TempDir()+"/test.db")
	n, two := federationtest.New(t, "two.test", "us.test"), newOther(t)
	tries := 0
	two.answer = func(*http.Request, []string) int {
		if tries++; tries < 3 {
			queue(t, db, fmt.Sprintf("later %d", tries)) // it must not slip into what is being repeated
			return http.StatusBadGateway
		}
		return http.StatusOK
	}
	n.Serve(destination, two)
	start(t, db, n, time.Millisecond)
	queue(t, db, "a")
	empty(t, db)
	if got := two.got(); !slices.Equal(got, []string{"a", "later 1", "later 2"}) {
		t.Errorf("got %v", got)
	}
	for i := 1; i < 3; i++ {
		if two.ids[i] != two.ids[0] || two.bodies[i] != two.bodies[0] {
			t.Errorf("try %d was %s %s\nthe first %s %s", i, two.ids[i], two.bodies[i], two.ids[0], two.bodies[0])
		}
	}
}

func TestPauseEndsWhenTheOtherSpeaks(t *testing.T) {
	db := storetest.Open(t, t.TempDir()+"/test.db")
	n, two := federationtest.New(t, "two.test", "us.test"), newOther(t)
	two.answer = func(*http.Request, []string) int { return http.StatusServiceUnavailable }
	n.Serve(destination, two)
	s := start(t, db, n, time.Hour)
	queue(t, db, "a")
	two.wait(1)
	failing := func() bool {
		var list []store.Destination
		if err := db.View(t.Context(), func(tx *store.Tx) (err error) { list, err = tx.Destinations.Failing(); return err }); err != nil {
			t.Fatal(err)
		}
		return len(list) > 0
	}
	until(failing) // the failure is written a moment after the answer
	two.mu.Lock()
	two.answer = nil
	two.mu.Unlock()
	queue(t, db, "b")
	// The failure may be in the database before the queue has come to rest; then Woke does nothing yet.
	until(func() bool { s.Woke(destination); return len(two.got()) > 0 })
	empty(t, db)
	if got := two.got(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %v", got)
	}
	if failing() {
		t.Error("the server is still said to fail")
	}
}

// TestWrongClock has a pause that was written when the clock was years ahead.
func TestWrongClock(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n, two := federationtest.New(t, "two.test", "us.test"), newOther(t)
		n.Serve(destination, two)
		queue(t, db, "a")
		ahead := time.Now().Add(10_000 * time.Hour).UnixMilli()
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			return tx.Destinations.SetFailing(store.Destination{Server: destination, FailingSince: ahead, RetryAt: ahead, Failures: 3})
		})
		if err != nil {
			t.Fatal(err)
		}
		key, err := sign.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		s := &sender.Sender{Store: db, Client: n.Client(t, "us.test", key), Log: slog.New(slog.DiscardHandler), MinPause: time.Millisecond, MaxPause: 10 * time.Millisecond}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		two.wait(1)
		empty(t, db)
	})
}

// TestFailuresAreForgotten has a destination fail when nothing waits for it but what may be lost.
func TestFailuresAreForgotten(t *testing.T) {
	db := storetest.Open(t, t.TempDir()+"/test.db")
	n, two := federationtest.New(t, "two.test", "us.test"), newOther(t)
	two.answer = func(*http.Request, []string) int { return http.StatusServiceUnavailable }
	n.Serve(destination, two)
	failing := func() (list []store.Destination) {
		if err := db.View(t.Context(), func(tx *store.Tx) (err error) { list, err = tx.Destinations.Failing(); return err }); err != nil {
			t.Fatal(err)
		}
		return list
	}
	// It failed before the start, and nothing has come for it since.
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		return tx.Destinations.SetFailing(store.Destination{Server: "gone.test", FailingSince: 1, RetryAt: time.Now().Add(time.Millisecond).UnixMilli(), Failures: 3})
	})
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, db, n, time.Millisecond)
	s.SendEphemeral([]id.ServerName{destination}, edu("lost"))
	two.wait(1)
	until(func() bool { return len(failing()) == 0 })
}

func TestBadUnitStopsNothing(t *testing.T) {
	db := storetest.Open(t, t.TempDir()+"/test.db")
	n, two := federationtest.New(t, "two.test", "us.test"), newOther(t)
	two.answer = func(_ *http.Request, units []string) int {
		if slices.Contains(units, "bad") {
			return http.StatusBadRequest
		}
		return http.StatusOK
	}
	n.Serve(destination, two)
	queue(t, db, "a", "bad", "b", "c")
	err := db.Update(t.Context(), func(tx *store.Tx) error { // rows that can't be sent at all
		tx.Outbox.AddEDU([]id.ServerName{destination}, store.DataUnit{JSON: []byte(`{"broken`)})
		tx.Log(stream.Change{Kind: stream.Outbound, Servers: []id.ServerName{destination}}, func(p stream.Position) error {
			return tx.Outbox.AddEvent([]id.ServerName{destination}, p, 12345)
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	queue(t, db, "d")
	start(t, db, n, time.Millisecond)
	empty(t, db)
	if got := two.got(); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
		t.Errorf("got %v", got)
	}
}

func TestEphemeral(t *testing.T) {
	db := storetest.Open(t, t.TempDir()+"/test.db")
	n, two := federationtest.New(t, "two.test", "gone.test", "us.test"), newOther(t)
	n.Serve(destination, two)
	s := start(t, db, n, time.Hour)
	s.SendEphemeral([]id.ServerName{destination, "gone.test"}, edu("a"))
	two.wait(1)
	s.SendEphemeral([]id.ServerName{destination, "gone.test"}, edu("b"))
	two.wait(1)
	if got := two.got(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %v", got)
	}
	if two.ids[0] == two.ids[1] {
		t.Errorf("two transactions have the ID %s", two.ids[0])
	}
}

func TestEventsGoAsTheyAreStored(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n, two := federationtest.New(t, "two.test", "us.test"), newOther(t)
		n.Serve(destination, two)
		key, err := sign.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		e := &room.Engine{Store: db, Server: "us.test", Key: key, DefaultVersion: event.DefaultVersion, Log: slog.New(slog.DiscardHandler)}
		roomID, err := e.Create(t.Context(), room.Creation{Creator: "@a:us.test"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var events []*store.Event
		if err := db.View(t.Context(), func(tx *store.Tx) (err error) { events, err = tx.Events.Since(0, 1000, 100); return err }); err != nil {
			t.Fatal(err)
		}
		err = db.Update(t.Context(), func(tx *store.Tx) error {
			for range 9 { // more than fit into a transaction
				for _, ev := range events {
					tx.Log(stream.Change{Kind: stream.Event, Room: roomID, Servers: []id.ServerName{destination}}, func(p stream.Position) error {
						return tx.Outbox.AddEvent([]id.ServerName{destination}, p, ev.NID)
					})
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		start(t, db, n, time.Hour)
		empty(t, db)
		if got, want := len(two.got()), 9*len(events); got != want || want <= 50 {
			t.Errorf("got %d events of %d", got, want)
		}
		if !strings.Contains(two.bodies[0], string(events[0].JSON)) {
			t.Errorf("the first event is not there as it is stored: %.300s", two.bodies[0])
		}
	})
}

func TestSettle(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n, o := federationtest.New(t, "two.test", "us.test"), newOther(t)
		n.Serve(destination, o)
		s := start(t, db, n, time.Hour)
		s.Settle(t.Context(), destination) // nothing waits
		queue(t, db, numbered(0, 150)...)
		s.Settle(t.Context(), destination)
		if got := o.got(); len(got) != 150 {
			t.Errorf("settled after %d of 150", len(got))
		}
		o.mu.Lock()
		o.answer = func(*http.Request, []string) int { return http.StatusBadGateway }
		o.mu.Unlock()
		queue(t, db, "lost")
		s.Settle(t.Context(), destination) // ends with the failure
		s.Settle(t.Context(), destination) // does not begin while the destination is left alone
		if got := o.got(); slices.Contains(got, "lost") {
			t.Error("a refused transaction counts as delivered")
		}
	})
}

// heard is a log that tells of its first line.
type heard struct{ first chan string }

func (h heard) Write(line []byte) (int, error) {
	select {
	case h.first <- string(line):
	default:
	}
	return len(line), nil
}

// TestOurFaultsAreNotTheirs: a destination is not left alone because our own database fails, and loses nothing.
func TestOurFaultsAreNotTheirs(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		db := storetest.Open(t, address)
		n, two := federationtest.New(t, "two.test", "us.test"), newOther(t)
		n.Serve(destination, two)
		s := start(t, db, n, time.Hour) // the pause after a failure of the destination
		log := heard{make(chan string, 1)}
		s.Log = slog.New(slog.NewTextHandler(log, nil))
		show := storetest.Hide(t, address, "outbox")
		s.SendEphemeral([]id.ServerName{destination}, edu("a"))
		line := <-log.first
		show()
		two.wait(1)
		if got := two.got(); !slices.Equal(got, []string{"a"}) || !strings.Contains(line, "reason of our own") {
			t.Errorf("got %v after %s", got, line)
		}
	})
}
