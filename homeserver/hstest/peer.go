package hstest

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/securecomm/securecomm/federation/discovery/discoverytest"
	"github.com/securecomm/securecomm/federation/xmatrix"
	"github.com/securecomm/securecomm/homeserver/event"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// Peer is a federated server under a test's control. It has a name, keys that it publishes, and TLS that the server under
// test trusts. It believes everything, checks nothing, and answers honestly from what it knows of rooms until Handle has
// it do otherwise.
type Peer struct {
	Name id.ServerName
	Key  sign.Key
	// From is the address that its requests come from; all of 127.0.0.0/8 are ours.
	From netip.Addr

	t      testing.TB
	of     *Server
	client *http.Client
	own    *http.ServeMux

	mu     sync.Mutex
	lies   map[string]http.HandlerFunc
	lying  *http.ServeMux
	down   bool
	asked  []string
	news   chan struct{} // closed and made anew whenever something comes in
	rooms  map[id.RoomID]*Room
	edus   []EDU
	sent   int
	closed chan struct{}
}

// EDU is an ephemeral data unit.
type EDU struct {
	Type    string          `json:"edu_type"`
	Content json.RawMessage `json:"content"`
}

// NewPeer starts a server that can do whatever it likes to one of NewFederating or Pair.
func NewPeer(t testing.TB, of *Server) *Peer {
	t.Helper()
	if of.ca == nil {
		t.Fatal("the server under test does not federate: see NewFederating")
	}
	key, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	p := &Peer{Key: key, t: t, of: of, rooms: map[id.RoomID]*Room{}, lies: map[string]http.HandlerFunc{}, news: make(chan struct{}), closed: make(chan struct{})}
	p.own = p.honest()
	s := httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{of.ca.Certificate("127.0.0.1")}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.Name = id.ServerName(s.Listener.Addr().String())
	s.StartTLS()
	p.client = &http.Client{Transport: p.transport(of.ca)}
	t.Cleanup(func() {
		close(p.closed)
		p.client.CloseIdleConnections()
		s.CloseClientConnections()
		s.Close()
	})
	return p
}

func (p *Peer) transport(ca *discoverytest.CA) *http.Transport {
	return &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: ca.Pool()},
		MaxIdleConnsPerHost: 64, DisableCompression: true, DisableKeepAlives: true, // each connection from where From is then
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			var d net.Dialer
			if p.From.IsValid() {
				d.LocalAddr = &net.TCPAddr{IP: p.From.AsSlice()}
			}
			return d.DialContext(ctx, network, address)
		},
	}
}

// User is the ID of one of its users. They need not be made.
func (p *Peer) User(localpart string) id.UserID {
	return id.UserID("@" + localpart + ":" + string(p.Name))
}

// Handle has requests that match a pattern of http.ServeMux, such as "GET /_matrix/federation/v1/state_ids/{room}",
// answered by a handler instead; nil makes the peer honest again.
func (p *Peer) Handle(pattern string, h http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lies[pattern] = h; h == nil {
		delete(p.lies, pattern)
	}
	p.lying = http.NewServeMux()
	for pattern, h := range p.lies {
		p.lying.HandleFunc(pattern, h)
	}
}

// Honest answers as the peer would without Handle.
func (p *Peer) Honest(w http.ResponseWriter, r *http.Request) { p.own.ServeHTTP(w, r) }

// SetDown breaks all connections to the peer, or has it answer again.
func (p *Peer) SetDown(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

// Asked counts the requests to the peer that begin so, as in "GET /_matrix/federation/v1/state_ids/".
func (p *Peer) Asked(prefix string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, request := range p.asked {
		if strings.HasPrefix(request, prefix) {
			n++
		}
	}
	return n
}

// EDUs are the ephemeral data units of a type that the peer got, in order.
func (p *Peer) EDUs(typ string) []EDU {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(p.edus), func(e EDU) bool { return e.Type != typ })
}

// Await waits until something is so, asking whenever the peer was asked something; it fails the test after some minutes.
func (p *Peer) Await(what string, so func() bool) {
	p.t.Helper()
	limit := time.After(3 * time.Minute)
	for {
		p.mu.Lock()
		news := p.news
		p.mu.Unlock()
		if so() {
			return
		}
		select {
		case <-news:
		case <-limit:
			p.t.Fatalf("the peer never sees %s", what)
		}
	}
}

func (p *Peer) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	down, lying := p.down, p.lying
	p.asked = append(p.asked, r.Method+" "+r.RequestURI)
	p.mu.Unlock()
	p.tell() // an answer may never end
	defer p.tell()
	if down {
		panic(http.ErrAbortHandler)
	}
	if lying != nil {
		if _, pattern := lying.Handler(r); pattern != "" {
			lying.ServeHTTP(w, r)
			return
		}
	}
	p.own.ServeHTTP(w, r)
}

// tell wakes those who Await.
func (p *Peer) tell() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.news)
	p.news = make(chan struct{})
}

// Silent is a handler that never answers.
func (p *Peer) Silent(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // or the end of the connection is not seen
	select {
	case <-r.Context().Done():
	case <-p.closed:
	}
}

// Trickle makes a handler that begins an answer with some bytes at once and goes on with a piece for each pause, until who
// asked gives up or the test ends.
func (p *Peer) Trickle(contentType string, first, piece []byte, pause time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(first)
		for ticks := time.NewTicker(pause); ; {
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-ticks.C:
				_, _ = w.Write(piece)
			case <-r.Context().Done():
				return
			case <-p.closed:
				return
			}
		}
	}
}

// Answer makes a handler that answers with a status and JSON: bytes as they are, other values encoded.
func Answer(status int, body any) http.HandlerFunc {
	raw, ok := body.([]byte)
	if !ok {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			panic(err)
		}
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write(raw)
	}
}

// Request makes a signed request to the server under test, for Do or to be changed before. The path stands behind
// /_matrix/federation unless it begins with "/_".
func (p *Peer) Request(method, path string, body any) *http.Request {
	p.t.Helper()
	if !strings.HasPrefix(path, "/_") {
		path = "/_matrix/federation" + path
	}
	var content []byte
	switch b := body.(type) {
	case nil:
	case []byte:
		content = b
	default:
		var err error
		if content, err = json.Marshal(b); err != nil {
			p.t.Fatal(err)
		}
	}
	r, err := http.NewRequestWithContext(p.t.Context(), method, "https://"+string(p.of.Name)+path, bytes.NewReader(content))
	if err != nil {
		p.t.Fatal(err)
	}
	authorization, err := xmatrix.Sign(xmatrix.Request{Method: method, URI: r.URL.RequestURI(), Content: content}, p.Name, p.of.Name, p.Key)
	if err != nil {
		// What is no JSON can't be signed; it goes out with a signature all the same.
		authorization = xmatrix.Header{Origin: p.Name, Destination: p.of.Name, Key: p.Key.ID, Signature: p.Key.Sign(content)}.String()
	}
	r.Header.Set("Authorization", authorization)
	return r
}

// Slowly makes the body of a request come in pieces with pauses between them.
func Slowly(r *http.Request, piece int, pause time.Duration) *http.Request {
	r.Body = io.NopCloser(&slow{from: r.Body, piece: piece, pause: pause})
	return r
}

type slow struct {
	from  io.Reader
	piece int
	pause time.Duration
	began bool
}

// Read waits before all pieces but the first.
func (s *slow) Read(b []byte) (int, error) {
	if s.began {
		time.Sleep(s.pause)
	}
	s.began = true
	return s.from.Read(b[:min(len(b), s.piece)])
}

// Try makes a request of Request and returns the status and the body of the answer, or how the connection failed.
func (p *Peer) Try(r *http.Request) (int, []byte, error) {
	answer, err := p.client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	return answer.StatusCode, raw, err
}

// Do asks the server under test.
func (p *Peer) Do(method, path string, body any) (int, []byte) {
	p.t.Helper()
	status, raw, err := p.Try(p.Request(method, path, body))
	if err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
	return status, raw
}

// Must is Do that fails the test unless the status is 200; the answer is decoded into into, which may be nil.
func (p *Peer) Must(method, path string, body, into any) {
	p.t.Helper()
	status, raw := p.Do(method, path, body)
	if status != http.StatusOK {
		p.t.Fatalf("%s %s: %d %s", method, path, status, raw)
	}
	if into != nil {
		if err := json.Unmarshal(raw, into); err != nil {
			p.t.Fatalf("%s %s: %v in %s", method, path, err, raw)
		}
	}
}

// Transaction sends one transaction of any size, and returns the status and the answer.
func (p *Peer) Transaction(pdus []json.RawMessage, edus ...EDU) (int, []byte) {
	p.t.Helper()
	p.mu.Lock()
	p.sent++
	n := p.sent
	p.mu.Unlock()
	if pdus == nil {
		pdus = []json.RawMessage{}
	}
	body := map[string]any{"origin": p.Name, "origin_server_ts": time.Now().UnixMilli(), "pdus": pdus, "edus": edus}
	return p.Do("PUT", fmt.Sprintf("/v1/send/%d", n), body)
}

// Send delivers events in transactions of at most 50, and returns what the server under test says against them, by event.
func (p *Peer) Send(events ...*event.Event) map[id.EventID]string {
	p.t.Helper()
	refused := map[id.EventID]string{}
	for chunk := range slices.Chunk(events, 50) {
		var pdus []json.RawMessage
		for _, e := range chunk {
			pdus = append(pdus, e.JSON)
		}
		maps.Copy(refused, p.SendJSON(pdus...))
	}
	return refused
}

// SendJSON is Send for what need not be an event: one transaction.
func (p *Peer) SendJSON(pdus ...json.RawMessage) map[id.EventID]string {
	p.t.Helper()
	status, raw := p.Transaction(pdus)
	var answer struct {
		PDUs map[id.EventID]struct {
			Error string `json:"error"`
		} `json:"pdus"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil || status != http.StatusOK {
		p.t.Fatalf("a transaction: %d %s", status, raw)
	}
	refused := map[id.EventID]string{}
	for eventID, result := range answer.PDUs {
		if result.Error != "" {
			refused[eventID] = result.Error
		}
	}
	return refused
}
