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

	"github.com/securecomm/securecomm/federation/client"
	"github.com/securecomm/securecomm/federation/federationtest"
	"github.com/securecomm/securecomm/federation/sender"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/stream"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

// silent are servers that take what they are sent and do not answer, as long as the test lasts.
func silent(t *testing.T, n *federationtest.Net, names []string) (servers []id.ServerName, asked chan id.ServerName) {
	asked, release := make(chan id.ServerName, len(names)), make(chan struct{})
	t.Cleanup(func() { close(release) })
	for _, name := range names {
		server := id.ServerName(name)
		servers = append(servers, server)
		n.Serve(server, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			asked <- server
			<-release
			panic(http.ErrAbortHandler)
		}))
	}
	return servers, asked
}

// named makes up names of servers.
func named(kind string, many int) (names []string) {
	for i := range many {
		names = append(names, fmt.Sprintf("%s%d.test", kind, i))
	}
	return names
}

// TestServersThatHaveNotAnsweredHavePlacesOfTheirOwn: servers that say nothing keep only those waiting of which as little
// is known as of them.
func TestServersThatHaveNotAnsweredHavePlacesOfTheirOwn(t *testing.T) {
	failing, first, strange := named("failing", 100), named("first", 100), named("strange", 100)
	all := slices.Concat([]string{"two.test", "three.test", "four.test", "us.test"}, failing, first, strange)
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n, two, three, four := federationtest.New(t, all...), newOther(t), newOther(t), newOther(t)
		n.Serve(destination, two)
		n.Serve("three.test", three)
		n.Serve("four.test", four)
		failed, failedAsked := silent(t, n, failing)
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			for _, server := range failed {
				tx.Outbox.AddEDU([]id.ServerName{server}, store.DataUnit{JSON: edu("x")})
				if err := tx.Destinations.SetFailing(store.Destination{Server: server, FailingSince: 1, RetryAt: 1, Failures: 3}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		full := func(asked chan id.ServerName, places int) {
			t.Helper()
			for i := range places {
				waittest.Get(t, fmt.Sprintf("transaction %d of %d that go out at a time", i+1, places), asked)
			}
		}
		s := start(t, db, n, time.Hour)
		full(failedAsked, 32)
		queue(t, db, "a") // a stranger, since it is a message to a device, that answers
		two.wait(1)

		strangers, strangersAsked := silent(t, n, strange)
		err = db.Update(t.Context(), func(tx *store.Tx) error {
			for _, server := range append(strangers, "four.test") {
				tx.Outbox.AddEDU([]id.ServerName{server}, store.DataUnit{JSON: edu("x")})
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		full(strangersAsked, 16)
		s.SendEphemeral([]id.ServerName{"three.test"}, edu("first")) // what shares a room does not wait for strangers
		three.wait(1)
		s.Answered("four.test") // nor does one that was among them, once it has answered anything
		four.wait(1)

		firsts, firstsAsked := silent(t, n, first)
		s.SendEphemeral(firsts, edu("first"))
		full(firstsAsked, 32)
		queue(t, db, "b")
		two.wait(1)
		for what, more := range map[string]int{"failing servers": len(failedAsked), "strangers": len(strangersAsked), "servers of rooms": len(firstsAsked)} {
			if more > 0 {
				t.Errorf("%d more of the %s are waited for", more, what)
			}
		}
	})
}

// TestEventsMakeNoStrangers: who shares a room is known by the events that wait, from the start and later.
func TestEventsMakeNoStrangers(t *testing.T) {
	strange := named("strange", 100)
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n, two, three := federationtest.New(t, append(strange, "two.test", "three.test", "us.test")...), newOther(t), newOther(t)
		n.Serve(destination, two)
		n.Serve("three.test", three)
		strangers, asked := silent(t, n, strange)
		add := func(event id.ServerName, edus ...id.ServerName) {
			t.Helper()
			err := db.Update(t.Context(), func(tx *store.Tx) error {
				for _, server := range edus {
					tx.Outbox.AddEDU([]id.ServerName{server}, store.DataUnit{JSON: edu("x")})
				}
				if event != "" {
					tx.Log(stream.Change{Kind: stream.Event, Servers: []id.ServerName{event}}, func(p stream.Position) error {
						return tx.Outbox.AddEvent([]id.ServerName{event}, p, 12345)
					})
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		add(destination, append(strangers, destination)...)
		start(t, db, n, time.Hour)
		two.wait(1)
		for range 16 {
			waittest.Get(t, "one more transaction", asked)
		}
		add("", "three.test") // which waits among the strangers until there is an event
		add(destination, destination)
		two.wait(1)
		add("three.test")
		three.wait(1)
	})
}

// TestTheClientTellsWhoAnswered: a server that refuses has not answered.
func TestTheClientTellsWhoAnswered(t *testing.T) {
	n, two := federationtest.New(t, "two.test", "us.test"), newOther(t)
	two.answer = func(r *http.Request, _ []string) int {
		if strings.HasSuffix(r.URL.Path, "/refused") {
			return http.StatusInternalServerError
		}
		return http.StatusOK
	}
	n.Serve(destination, two)
	key, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	c := n.Client(t, "us.test", key)
	var told []id.ServerName
	c.Answered = func(server id.ServerName) { told = append(told, server) }
	for i, txn := range []string{"refused", "taken"} {
		_, err := c.SendTransaction(t.Context(), destination, txn, client.Transaction{EDUs: []json.RawMessage{edu("x")}})
		if (err == nil) != (i == 1) || len(told) != i {
			t.Errorf("%s: %v, told of %v", txn, err, told)
		}
	}
}

// TestSlowServersMakeRoom: servers that have answered and then take their time hold up none that answers; some of them may go on
// taking it.
func TestSlowServersMakeRoom(t *testing.T) {
	slow := named("slow", 160)
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n, two := federationtest.New(t, append(slow, "two.test", "us.test")...), newOther(t)
		n.Serve(destination, two)
		asked, given := make(chan id.ServerName, 1000), make(chan id.ServerName, 1000)
		for _, name := range slow {
			server := id.ServerName(name)
			n.Serve(server, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				asked <- server
				select {
				case <-r.Context().Done():
					given <- server
				case <-t.Context().Done():
				}
			}))
		}
		s := impatient(t, db, n, io.Discard)
		send := func(names []string) {
			for _, name := range names {
				s.Answered(id.ServerName(name))
				s.SendEphemeral([]id.ServerName{id.ServerName(name)}, edu("x"))
			}
		}
		s.Answered(destination)
		send(slow[:64])
		for range 64 {
			waittest.Get(t, "one more transaction", asked)
		}
		queue(t, db, "a")
		two.wait(1)
		waittest.Until(t, "64 servers are slow", func() bool { return s.Slow() == 64 })
		if len(given) > 0 {
			t.Errorf("%d servers were given up before their time", len(given))
		}
		send(slow[64:]) // while those that hang since the beginning have all places for that
		queue(t, db, "b")
		two.wait(1)
		for len(given) > 0 {
			if server := <-given; slices.Contains(slow[:64], string(server)) {
				t.Errorf("%s, one of the first, was given up", server)
			}
		}
	})
}

// TestSilentStrangersMakeRoom: strangers that say nothing are given up when others of their kind wait.
func TestSilentStrangersMakeRoom(t *testing.T) {
	strange := named("strange", 48)
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		n, two := federationtest.New(t, append(strange, "two.test", "us.test")...), newOther(t)
		n.Serve(destination, two)
		strangers, asked := silent(t, n, strange)
		log := &safeLog{}
		impatient(t, db, n, log)
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			for _, server := range strangers {
				tx.Outbox.AddEDU([]id.ServerName{server}, store.DataUnit{JSON: edu("x")})
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 16 {
			waittest.Get(t, "one more transaction", asked)
		}
		queue(t, db, "a")
		two.wait(1)
		waittest.Until(t, "somebody is given up", func() bool { return strings.Contains(log.String(), "it takes its time") })
		if text := log.String(); strings.Contains(text, "deadline") {
			t.Errorf("some were not given up before their time: %s", text)
		}
	})
}

type safeLog struct {
	mu sync.Mutex
	strings.Builder
}

func (l *safeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Builder.Write(p)
}

func (l *safeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Builder.String()
}

// impatient starts a sender to whom transactions soon take long.
func impatient(t *testing.T, db *store.DB, n *federationtest.Net, log io.Writer) *sender.Sender {
	t.Helper()
	key, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	s := &sender.Sender{Store: db, Client: n.Client(t, "us.test", key), Log: slog.New(slog.NewTextHandler(log, nil)), MinPause: time.Hour, Patience: 200 * time.Millisecond}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}
