package federation

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/securecomm/securecomm/federation/federationtest"
	"github.com/securecomm/securecomm/federation/xmatrix"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/room"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

// strangers are servers of which nothing is known, whose names anybody can use, and which never tell their keys.
type strangers struct {
	*testing.T
	us      *peer
	names   []string
	asked   atomic.Int32
	waiting chan struct{} // one for each that is asked
	release chan struct{}
}

func newStrangers(t *testing.T, count int) *strangers {
	s := &strangers{T: t, waiting: make(chan struct{}, 1000), release: make(chan struct{})}
	for i := range count {
		s.names = append(s.names, fmt.Sprintf("s%d.test", i))
	}
	n := federationtest.New(t, append([]string{"us.test", "them.test"}, s.names...)...)
	s.us = newPeer(t, n, "us.test", storetest.Open(t, t.TempDir()+"/us.db"))
	for _, name := range s.names {
		n.Serve(id.ServerName(name), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			s.asked.Add(1)
			s.waiting <- struct{}{}
			<-s.release
			panic(http.ErrAbortHandler)
		}))
	}
	return s
}

func (s *strangers) header(name string) string {
	key, err := sign.NewKey()
	if err != nil {
		s.Fatal(err)
	}
	const uri = "/_matrix/federation/v1/send/1"
	h, err := xmatrix.Sign(xmatrix.Request{Method: http.MethodPut, URI: uri, Content: []byte(`{}`)}, id.ServerName(name), "us.test", key)
	if err != nil {
		s.Fatal(err)
	}
	return h
}

// send makes a request from an address and says how much of its body was read.
func (s *strangers) send(address string, headers ...string) (status, read int) {
	body := &counting{Reader: strings.NewReader(`{}`)}
	r := httptest.NewRequest(http.MethodPut, "/_matrix/federation/v1/send/1", body)
	r.ContentLength, r.RemoteAddr, r.Header["Authorization"] = 2, address, headers
	w := httptest.NewRecorder()
	s.us.echo.ServeHTTP(w, r)
	return w.Code, body.read
}

// TestOneNameIsTried: a request that names many servers has us ask one of them, and that one not again at once.
func TestOneNameIsTried(t *testing.T) {
	s := newStrangers(t, 8)
	close(s.release)
	var headers []string
	for _, name := range s.names {
		headers = append(headers, s.header(name))
	}
	for range 2 {
		if status, read := s.send("192.0.2.1:1", headers...); status != http.StatusUnauthorized || read != 0 {
			t.Errorf("answered with %d after %d bytes", status, read)
		}
	}
	// The connection that breaks is tried anew once.
	if n := s.asked.Load(); n < 1 || n > 2 {
		t.Errorf("%d requests for keys were made", n)
	}
}

// TestStrangersWaitInTheirPlaces: keys are looked for by requests in a bounded number of places, few of them for one address.
func TestStrangersWaitInTheirPlaces(t *testing.T) {
	s := newStrangers(t, meetingsFor+2)
	var wg sync.WaitGroup
	first := make(chan int, 1)
	defer wg.Wait()
	defer close(s.release)
	begin := func(address, name string) {
		t.Helper()
		h := s.header(name)
		wg.Go(func() {
			status, _ := s.send(address, h)
			select {
			case first <- status:
			default:
			}
		})
		waittest.Get(t, "a request for the keys of "+name, s.waiting)
	}
	for _, name := range s.names[:meetingsFor] {
		begin("192.0.2.1:1", name)
	}
	if status, read := s.send("192.0.2.1:1", s.header(s.names[meetingsFor])); status != http.StatusTooManyRequests || read != 0 {
		t.Errorf("one more of an address: %d after %d bytes", status, read)
	}
	begin("192.0.2.2:1", s.names[meetingsFor])
	s.us.api.meetings.mu.Lock()
	s.us.api.meetings.all += meetingsAll - meetingsFor - 1
	s.us.api.meetings.mu.Unlock()
	begin("192.0.2.3:1", s.names[meetingsFor+1])
	if status := waittest.Get(t, "an answer to who has the most, when somebody with fewer comes", first); status != http.StatusTooManyRequests {
		t.Errorf("the oldest of who has the most, when somebody with fewer comes: %d", status)
	}
	s.us.api.meetings.mu.Lock()
	s.us.api.meetings.all++
	for _, who := range []string{"192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"} {
		s.us.api.meetings.by[who] = 1
	}
	s.us.api.meetings.mu.Unlock()
	if status, _ := s.send("192.0.2.4:1", s.header("them.test")); status != http.StatusTooManyRequests {
		t.Errorf("one more when nobody has more: %d", status)
	}
}

// TestFailuresAreCounted: who could not prove several times who asks, or named many servers, is not listened to for a while.
func TestFailuresAreCounted(t *testing.T) {
	s := newStrangers(t, 4)
	close(s.release)
	s.us.api.forged, s.us.api.strange = newPace(Rate{3, time.Hour}), newPace(Rate{2, time.Hour})
	for i, want := range []int{401, 401, 429, 429} {
		if status, _ := s.send("192.0.2.1:1", s.header(s.names[i])); status != want {
			t.Errorf("server %d: %d", i, status)
		}
	}
	if status, _ := s.send("192.0.2.1:1", s.header(s.names[0])); status != 401 {
		t.Errorf("a third failure: %d", status)
	}
	if status, _ := s.send("192.0.2.1:1", s.header(s.names[0])); status != 429 {
		t.Errorf("one more: %d", status)
	}
	if status, _ := s.send("192.0.2.2:1", s.header(s.names[0])); status != 401 {
		t.Errorf("another address: %d", status)
	}
}

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := turns{most: 3, each: 2, queue: 1}
		enter := func(who string) func() {
			t.Helper()
			leave, err := turns.enter(t.Context(), who)
			if err != nil {
				t.Fatal(err)
			}
			return leave
		}
		leave, _, other := enter("a"), enter("a"), enter("b")
		entered := make(chan func(), 1)
		go func() {
			leave, _ := turns.enter(context.Background(), "a")
			entered <- leave
		}()
		synctest.Wait()
		if turns.waiting["a"] != 1 {
			t.Error("one more than may has not to wait")
		}
		if _, err := turns.enter(t.Context(), "a"); err == nil {
			t.Error("one more waits than may")
		}
		other() // is of no use to who has as many as may be
		synctest.Wait()
		if len(entered) > 0 {
			t.Error("one server has more turns than may be")
		}
		enter("c")()
		leave()
		(<-entered)()
		if turns.all != 1 || turns.by["a"] != 1 || len(turns.waiting) != 0 {
			t.Errorf("in the end: %d, %v, %v wait", turns.all, turns.by, turns.waiting)
		}
	})
}

// TestAnswersCountUntilTheyAreRead: what one server has been answered and has not read bounds what it is answered.
func TestAnswersCountUntilTheyAreRead(t *testing.T) {
	pair(t, func(t *testing.T, us, them *peer) {
		roomID := us.create(room.Creation{Creator: alice, Preset: "public_chat"})
		if err := them.join(roomID, bob, us.name); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			us.say(roomID, alice, strings.Repeat("x", 60<<10))
		}
		at := us.say(roomID, alice, "here")
		uri := "/_matrix/federation/v1/backfill/" + string(roomID) + "?limit=20&v=" + url.QueryEscape(string(at))
		before := us.api.inWork.Charge(string(them.name), nil)
		if err := before.Grow(senderLoad); err != nil {
			t.Fatal(err)
		}
		if status, _ := them.request(us, "GET", uri, "", nil); status != http.StatusTooManyRequests {
			t.Errorf("while much is not read: %d", status)
		}
		before.End()
		if status, _ := them.request(us, "GET", uri, "", nil); status != http.StatusOK {
			t.Errorf("afterwards: %d", status)
		}
		if held := us.api.inWork.Held(); held != 0 {
			t.Errorf("in the end there are %d bytes", held)
		}
	})
}

// TestUnreadAnswersMakeRoom: what a server does not read of its answers ends when there is no room for others, and what was
// written of it does not pass for the whole.
func TestUnreadAnswersMakeRoom(t *testing.T) {
	n := federationtest.New(t, "us.test", "them.test")
	us := newPeer(t, n, "us.test", storetest.Open(t, t.TempDir()+"/us.db"))
	const size = 32 << 20 // more than any buffer on the way
	writing, ended := make(chan *load.Charge, 1), make(chan any, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			how := recover()
			ended <- how
			panic(how)
		}()
		k := &call{Context: us.echo.NewContext(r, w), work: us.api.inWork.Charge("slow.test", nil)}
		defer k.work.End()
		writing <- k.work
		_ = k.answer(json.RawMessage(`"`+strings.Repeat("x", size)+`"`), 0)
	}))
	defer server.Close()
	answer, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	<-writing
	rest := us.api.inWork.Charge("rest", nil)
	if err := us.api.inWork.Charge("all that is left", nil).Grow(allLoad - us.api.inWork.Held() + load.Free); err != nil {
		t.Fatal(err)
	}
	if err := rest.Grow(1<<20 + load.Free); err != nil {
		t.Fatalf("somebody else: %v", err)
	}
	if how := <-ended; how != http.ErrAbortHandler {
		t.Errorf("the answer ended with %v", how)
	}
	if got, err := io.ReadAll(answer.Body); err == nil {
		t.Errorf("%d bytes of the answer pass for the whole", len(got))
	}
}
