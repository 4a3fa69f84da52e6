package clientapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/clientsync"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// The websocket: answers to syncs are pushed as soon as there is something to tell, and requests may be made on the
// same connection. It is not part of the specification.

const (
	streamProtocol = "m.json"
	// streamQueue is how many messages wait for a slow client before nothing more is gathered for it.
	streamQueue = 16
	// streamWrite is how long a client may take to accept a message.
	streamWrite = 10 * time.Second
	// streamPing is how often a silent connection is tried, streamSilence how long a client may be silent.
	streamPing    = 20 * time.Second
	streamSilence = 60 * time.Second
	// streamGreeting is how long a client may take to say who it is.
	streamGreeting = 10 * time.Second
	// streamCheck is how often it is looked whether the token still holds.
	streamCheck = 2 * time.Second
	streamWait  = time.Minute
	// tokenRevoked is the close code for a token that no longer holds.
	tokenRevoked = 4001
)

// The origin says nothing here: no cookie is looked at, and a token is known to whoever sends it.
var upgrader = websocket.Upgrader{
	Subprotocols: []string{streamProtocol}, HandshakeTimeout: streamGreeting, ReadBufferSize: 4 << 10, WriteBufferSize: 4 << 10,
	CheckOrigin: func(*http.Request) bool { return true },
}

// maxSockets is how many websockets a user may have open at a time.
const maxSockets = 50

// greeting is what a client may send first: what is not in the query or the header of its request.
type greeting struct {
	Token  string          `json:"access_token"`
	Since  string          `json:"since"`
	Filter json.RawMessage `json:"filter"`
}

// message is what goes out on a websocket: the answer to a request or to a sync.
type message struct {
	answer []byte
	sync   *clientsync.Answer
}

// connection is one websocket.
type connection struct {
	*call
	a      *API
	socket *websocket.Conn
	token  string
	out    chan message
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu        sync.Mutex
	confirmed stream.Token // up to which the client says that it has everything
	sync      clientsync.Request
}

func (a *API) stream(c *call) (any, error) {
	if !websocket.IsWebSocketUpgrade(c.Request()) {
		return nil, fail(http.StatusUpgradeRequired, "M_UNKNOWN", "this endpoint is for websockets")
	}
	g := greeting{Token: accessToken(c), Since: c.query("since")}
	if f := c.query("filter"); f != "" {
		g.Filter = json.RawMessage(f)
	}
	socket, err := upgrader.Upgrade(c.Response(), c.Request(), nil)
	if err != nil {
		return nil, nil // the upgrader has answered
	}
	// The connection is no longer one that HTTP answers go to.
	c.Response().Committed, c.Response().Status = true, http.StatusSwitchingProtocols
	defer socket.Close()
	socket.SetReadLimit(maxEventBody + 4<<10)
	k := &connection{call: c, a: a, socket: socket, out: make(chan message, streamQueue)}
	ctx, cancel := context.WithCancelCause(c.Request().Context())
	defer cancel(nil)
	k.ctx, k.cancel = ctx, cancel
	if err := k.greet(g); err != nil {
		k.refuse(err)
		return nil, nil
	}
	leave, err := a.sockets.enter(k.Requester.User, maxSockets)
	if err != nil {
		k.refuse(err)
		return nil, nil
	}
	defer leave()
	k.run()
	return nil, nil
}

// greet finds out who the client is and where it stands.
func (k *connection) greet(g greeting) error {
	if g.Token == "" {
		if err := k.socket.SetReadDeadline(time.Now().Add(streamGreeting)); err != nil {
			return err
		}
		_, raw, err := k.socket.ReadMessage()
		if err != nil {
			return err
		}
		if err := unmarshal(raw, &g); err != nil {
			return err
		}
		if g.Token == "" {
			return fail(http.StatusUnauthorized, "M_MISSING_TOKEN", "an access token is needed")
		}
	}
	requester, err := k.a.Account.Authenticate(k.ctx, g.Token)
	if err != nil {
		return err
	}
	unknown := k.Requester.User == ""
	k.Requester, k.token = requester, g.Token
	if unknown {
		if err := k.a.limiter.check(limitCostly, k.call); err != nil {
			return err
		}
	}
	k.sync = clientsync.Request{User: requester.User, Device: requester.Device, Timeout: streamWait}
	filter := string(g.Filter)
	var name string
	if json.Unmarshal(g.Filter, &name) == nil {
		filter = name
	}
	if k.sync.Filter, err = k.a.Account.Filter(k.ctx, requester.User, filter); err != nil {
		return err
	}
	if g.Since != "" {
		if k.sync.Since, err = k.a.syncToken(k.ctx, g.Since); err != nil {
			return err
		}
		k.sync.Lost = k.sync.Since == nil
	}
	return nil
}

// errDraining ends connections when the server is about to stop.
var errDraining = errors.New("the server is about to stop")

// refuse tells a client why it is sent away.
func (k *connection) refuse(err error) {
	code := websocket.ClosePolicyViolation
	if errors.Is(err, account.ErrUnknownToken) || errors.Is(err, account.ErrTokenExpired) {
		code = tokenRevoked
	}
	if errors.Is(err, errDraining) {
		code = websocket.CloseGoingAway
	}
	reason := "M_UNKNOWN"
	if f := asFailure(err); f != nil {
		reason = f.code
	}
	// It is closed right after; whether the client hears of it does not matter.
	_ = k.socket.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Now().Add(streamWrite))
}

// run serves the connection until one side has enough.
func (k *connection) run() {
	done, err := k.a.Ephemeral.Syncing(k.Requester.User, "")
	if err == nil {
		defer done()
	}
	var parts sync.WaitGroup
	parts.Go(k.write)
	parts.Go(k.push)
	k.read()
	k.cancel(nil)
	parts.Wait()
	for {
		select {
		case m := <-k.out:
			m.close()
		default:
			return
		}
	}
}

// push gathers what there is to tell.
func (k *connection) push() {
	for k.ctx.Err() == nil {
		k.mu.Lock()
		r := k.sync
		r.Confirmed = k.confirmed.Position
		k.mu.Unlock()
		answer, err := k.a.Sync.Sync(k.ctx, r)
		if err != nil {
			k.cancel(err)
			return
		}
		if !answer.Empty {
			k.send(message{sync: &answer})
		}
		k.mu.Lock()
		k.sync.Since, k.sync.Unconfirmed, k.sync.Lost = &answer.Next, true, false
		k.mu.Unlock()
	}
}

// send queues a message. It waits while the queue is full: write ends the connection if that takes too long.
func (k *connection) send(m message) {
	select {
	case k.out <- m:
	case <-k.ctx.Done():
		m.close()
	}
}

func (m message) close() {
	if m.sync != nil {
		m.sync.Close()
	}
}

// writeMessage writes a message. A large one has to make room for others: its connection ends then.
func (k *connection) writeMessage(m message) error {
	defer m.close()
	switch {
	case m.sync == nil:
		return k.writeText(m.answer)
	case m.sync.Large():
		m.sync.Losable(func() {
			k.cancel(load.ErrBusy)
			_ = k.socket.NetConn().SetWriteDeadline(time.Now())
		})
	}
	if m.sync.Whole() {
		return k.writeText(m.sync.Body)
	}
	w, err := k.socket.NextWriter(websocket.TextMessage)
	if err != nil {
		return err
	}
	pinged := time.Now()
	err = m.sync.Each(k.ctx, func(piece []byte) error {
		if time.Since(pinged) > streamPing {
			pinged = time.Now()
			if err := k.socket.WriteControl(websocket.PingMessage, nil, pinged.Add(streamWrite)); err != nil {
				return err
			}
		}
		if err := k.socket.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil {
			return err
		}
		_, err := w.Write(piece)
		return err
	})
	if err != nil {
		return err // without its end, nobody takes what has gone out for the whole
	}
	return w.Close()
}

func (k *connection) writeText(text []byte) error {
	if err := k.socket.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil {
		return err
	}
	return k.socket.WriteMessage(websocket.TextMessage, text)
}

// write is the only goroutine that writes to the socket.
func (k *connection) write() {
	ping, check := time.NewTicker(streamPing), time.NewTicker(streamCheck)
	defer ping.Stop()
	defer check.Stop()
	// A reader that does not come along is cut off by closing the socket under it.
	defer k.socket.Close()
	for {
		var err error
		select {
		case m := <-k.out:
			err = k.writeMessage(m)
		case <-ping.C:
			err = k.socket.WriteControl(websocket.PingMessage, nil, time.Now().Add(streamWrite))
		case <-check.C:
			if _, err = k.a.Account.Authenticate(k.ctx, k.token); err != nil && k.ctx.Err() == nil {
				k.refuse(err)
			}
		case <-k.a.Sync.Draining:
			k.refuse(errDraining)
			err = errDraining
		case <-k.ctx.Done():
			if cause := context.Cause(k.ctx); cause != nil && !errors.Is(cause, context.Canceled) {
				k.refuse(cause)
			}
			return
		}
		if err != nil {
			if errors.Is(err, load.ErrBusy) {
				k.refuse(err)
			}
			k.cancel(err)
			return
		}
	}
}

// read takes requests until the socket is closed.
func (k *connection) read() {
	alive := func() error { return k.socket.SetReadDeadline(time.Now().Add(streamSilence)) }
	k.socket.SetPongHandler(func(string) error { return alive() })
	for alive() == nil {
		kind, raw, err := k.socket.ReadMessage()
		if err != nil || kind != websocket.TextMessage {
			return
		}
		k.send(message{answer: k.answer(raw)})
		if k.answered != nil {
			close(k.answered) // what is sent from now on comes after the answer
			k.answered = nil
		}
	}
}
