package room

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/securecomm/securecomm/homeserver/eventauth"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/peers"
	"github.com/securecomm/securecomm/homeserver/store"
)

const (
	// failedFor is how long a server that did not help with a room is asked after the others, and maxFailed of how many that is noted.
	failedFor = 10 * time.Minute
	maxFailed = 1000
	// maxTalk is how many of the last events, and maxTalkSize how many bytes of them, tell which servers take part.
	maxTalk     = 50
	maxTalkSize = 256 << 10
)

// Peers are the other servers in a room in the order in which they are to be asked about it: the one through which a user came
// in, those of users with power, which nobody is without being trusted by the room, those of the last senders, and those with
// the most users. Many names of one site count as one, and those that failed lately come last.
func (e *Engine) Peers(ctx context.Context, roomID id.RoomID) ([]id.ServerName, error) {
	l, err := e.live(ctx, roomID)
	if err != nil {
		return nil, err
	}
	var recent []*store.Event
	err = e.Store.View(ctx, func(tx *store.Tx) (err error) {
		recent, _, err = tx.Events.RangeWithin(l.room.NID, 0, 1<<62, maxTalk, maxTalkSize, true)
		return err
	})
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	if err := e.load(ctx, l); err != nil {
		l.mu.Unlock()
		return nil, err
	}
	servers, auth, through, failed := l.servers, l.auth, l.through, maps.Clone(l.failed)
	l.mu.Unlock()
	now := time.Now()
	return peers.Spread(e.ranked(servers, through, auth, recent), func(s id.ServerName) bool {
		return now.Sub(failed[s]).Abs() < failedFor
	}), nil
}

// ranked are the other servers in a room, those first that are most likely to have its history.
func (e *Engine) ranked(servers map[id.ServerName]int, through id.ServerName, auth *eventauth.Context, recent []*store.Event) []id.ServerName {
	byUsers := func(a, b id.ServerName) int {
		return cmp.Or(cmp.Compare(servers[b], servers[a]), cmp.Compare(a, b))
	}
	var powerful, sending []id.ServerName
	for _, u := range auth.Powerful() {
		powerful = append(powerful, u.Server())
	}
	for _, ev := range recent {
		sending = append(sending, ev.Sender.Server())
	}
	slices.SortFunc(powerful, byUsers)
	seen, out := map[id.ServerName]bool{e.Server: true}, make([]id.ServerName, 0, len(servers))
	for _, list := range [][]id.ServerName{{through}, powerful, sending, slices.SortedFunc(maps.Keys(servers), byUsers)} {
		for _, s := range list {
			if servers[s] > 0 && !seen[s] {
				seen[s] = true
				out = append(out, s)
			}
		}
	}
	return out
}

// helped notes whether a server was of help with a room when it was asked at a time. One that was not waited for, since another
// one had answered, has failed only if it had more than its head start.
func (l *live) helped(server id.ServerName, asked time.Time, err error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		delete(l.failed, server)
		return
	case errors.Is(err, context.Canceled) && now.Sub(asked) < peers.HeadStart:
		return
	case fault(err) && !errors.Is(err, context.Canceled):
		return
	}
	if l.failed == nil || len(l.failed) >= maxFailed {
		l.failed = map[id.ServerName]time.Time{}
	}
	l.failed[server] = now
}

// cameThrough notes the server through which a user came into a room.
func (e *Engine) cameThrough(ctx context.Context, roomID id.RoomID, server id.ServerName) {
	l, err := e.live(ctx, roomID)
	if err != nil {
		return // it is asked like any other then
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.through = server
}
