package clientsync

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/securecomm/securecomm/homeserver/ephemeral"
	"github.com/securecomm/securecomm/homeserver/filter"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/keys"
	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/stream"
)

// Options are what an Engine needs.
type Options struct {
	Store     *store.DB
	Server    id.ServerName
	Keys      *keys.Service
	Ephemeral *ephemeral.Service
	Log       *slog.Logger
	// Draining is closed when the server is about to stop: syncs no longer wait. Nil never is.
	Draining <-chan struct{}
}

// Engine answers syncs. All methods may be called concurrently.
type Engine struct {
	Options
	// Answers is what large answers take up until they are closed, by user.
	Answers load.Stage

	people   *otter.Cache[id.UserID, *person]
	rooms    *otter.Cache[store.StateNID, *roomFacts]
	messages *otter.Cache[store.EventNID, *sharedMessage]
	states   *otter.Cache[moment, store.StateMap]

	wholeState, mostNames  int // maxWholeState and maxNames, but for tests
	mostUnread, unreadSize int // and maxUnread and maxUnreadSize
}

const (
	keptPeople = 1 << 14
	keptFacts  = 1 << 12
	// keptMoments is how many states of rooms at positions are kept; they share what they have in common.
	keptMoments = 1 << 10
	// keptMessages is how many bytes of events are kept decoded for the rules of all their readers.
	keptMessages = 32 << 20
	// MaxTimeout is the longest that a sync waits.
	MaxTimeout = 10 * time.Minute
)

// New makes an Engine.
func New(o Options) *Engine {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Engine{
		Options:  o,
		Answers:  load.Stage{Each: userAnswers, All: allAnswers},
		people:   otter.Must(&otter.Options[id.UserID, *person]{MaximumSize: keptPeople}),
		rooms:    otter.Must(&otter.Options[store.StateNID, *roomFacts]{MaximumSize: keptFacts}),
		messages: otter.Must(&otter.Options[store.EventNID, *sharedMessage]{MaximumWeight: keptMessages, Weigher: weighMessage}),
		states:   otter.Must(&otter.Options[moment, store.StateMap]{MaximumSize: keptMoments}),

		wholeState: maxWholeState, mostNames: maxNames, mostUnread: maxUnread, unreadSize: maxUnreadSize,
	}
}

// Request is one /sync.
type Request struct {
	User   id.UserID
	Device id.DeviceID
	// Since is nil for the first sync, and if the device's token is of a life of the database that was lost (Lost): it is
	// told all anew then, and nothing that waits for it counts as arrived.
	Since         *stream.Token
	Lost          bool
	Filter        *filter.Filter // nil: none
	FullState     bool
	UseStateAfter bool
	// StateAfter is what the client calls the state after a timeline; empty is "state_after".
	StateAfter string
	// Timeout is how long to wait if there is nothing to tell.
	Timeout time.Duration
	// Unconfirmed says that Since does not show what the client has, but Confirmed does: to-device messages up to there
	// may be deleted.
	Unconfirmed bool
	Confirmed   stream.Position
}

// Answer is the answer to a sync. It is to be closed once it is read.
type Answer struct {
	Body  []byte // JSON, but for what Each adds unless it is Whole
	Next  stream.Token
	Empty bool // there was nothing to tell

	unanswered []<-chan struct{} // requests by which the device sent events that it is shown
	later      []gap             // state that is missing in Body
	charge     *load.Charge      // nil unless it is large
	e          *Engine
	filter     *filter.Filter
}

// maxEcho bounds how long a device is not shown what it sent because the answer to the request has not gone out.
const maxEcho = 2 * time.Second

// Sync waits until there is something to tell a device, but not longer than it wants to, and tells it. It ends early
// with the context. What the device itself sent is not told before the request for it is answered.
func (e *Engine) Sync(ctx context.Context, r Request) (Answer, error) {
	answer, err := e.await(ctx, r)
	if err != nil || len(answer.unanswered) == 0 {
		return answer, err
	}
	if err = hold(ctx, answer.unanswered); err != nil {
		answer.Close()
	}
	return answer, err
}

// hold waits until requests are answered, but not for long: a client that takes no answer must not keep itself from all else.
func hold(ctx context.Context, unanswered []<-chan struct{}) error {
	timer := time.NewTimer(maxEcho)
	defer timer.Stop()
	for _, answered := range unanswered {
		select {
		case <-answered:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// await waits until there is something to tell.
func (e *Engine) await(ctx context.Context, r Request) (Answer, error) {
	if r.Filter == nil {
		r.Filter = &filter.Filter{}
	}
	if r.Lost {
		if err := e.Keys.Lost(ctx, r.User, r.Device); err != nil {
			return Answer{}, fmt.Errorf("sync of %s: %w", r.User, err)
		}
	}
	answer, err := e.look(ctx, &r)
	if err != nil || !answer.Empty || r.Timeout <= 0 || r.Since == nil || r.FullState {
		return answer, err
	}
	timer := time.NewTimer(min(r.Timeout, MaxTimeout))
	defer timer.Stop()
	waiter := e.Store.Hub.Subscribe(r.User)
	defer waiter.Close()
	for {
		r.Since = &answer.Next
		// What came before the subscription is looked for once more.
		if e.Store.Hub.Current() != answer.Next.Position || e.Ephemeral.Volatile() != answer.Next.Volatile {
			if answer, err = e.look(ctx, &r); err != nil || !answer.Empty {
				return answer, err
			}
			continue
		}
		select {
		case <-waiter.C:
		case <-timer.C:
			return answer, nil
		case <-e.Draining:
			return answer, nil
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		}
	}
}

// look gathers what there is to tell at the moment.
func (e *Engine) look(ctx context.Context, r *Request) (Answer, error) {
	p := e.person(r.User)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := e.Store.Hub.Token(e.Store.Hub.Current())
	now.Volatile = e.Ephemeral.Volatile()
	var b *builder
	err := e.Store.Glance(ctx, func(tx *store.Tx) error {
		device := p.device(r.Device)
		cut, err := e.inbox(tx, r, device, now.Position)
		if err != nil {
			return err
		}
		if cut < now.Position {
			// More waits for the device than fits: it is answered as of then. Who the user was then is found out anew.
			now = e.Store.Hub.Token(cut)
			now.Volatile = e.Ephemeral.Volatile()
			past := newPerson(r.User)
			past.devices[r.Device] = device
			b, err = e.gather(tx, r, past, now)
			return err
		}
		b, err = e.gather(tx, r, p, now)
		return err
	})
	if err != nil {
		if b != nil && b.charge != nil {
			b.charge.End()
		}
		return Answer{}, fmt.Errorf("sync of %s: %w", r.User, err)
	}
	b.judge()
	a := Answer{Body: b.finish(), Next: b.next, Empty: !b.any, unanswered: b.unanswered, charge: b.charge, e: e, filter: r.Filter}
	if a.later = b.later; !a.Whole() && a.charge == nil {
		a.charge = e.Answers.Charge(string(r.User), nil)
	}
	return a, nil
}

// gather reads what there is to tell, up to a position.
func (e *Engine) gather(tx *store.Tx, r *Request, p *person, now stream.Token) (*builder, error) {
	if err := e.advance(tx, p, now.Position); err != nil {
		return nil, err
	}
	b := &builder{e: e, tx: tx, p: p, r: r, f: r.Filter, device: p.device(r.Device), now: now.Position, next: now, work: answerWork}
	if r.Since != nil {
		b.since, b.volatile = min(r.Since.Position, now.Position), r.Since.Volatile
		if b.volatile > now.Volatile || b.since < e.Store.Epoch().First {
			b.volatile = 0 // it counts what happened in a process that has ended
		}
	}
	b.initial = r.Since == nil
	b.startLazy()
	return b, b.build()
}
