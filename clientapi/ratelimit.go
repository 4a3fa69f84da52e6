package clientapi

import (
	"context"
	"hash/maphash"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"

	"github.com/securecomm/securecomm/homeserver/id"
)

// limitClass is a kind of calls that share a rate.
type limitClass uint8

const (
	none limitClass = iota // where an account is needed: limitOther
	limitLogin
	limitConfirm // asks for the password once more; at the rates of limitLogin, but counted apart
	limitRegistration
	limitMessage
	limitJoin
	limitCopy // has the server write many events by itself: at the rates of limitMessage, but counted apart
	limitMedia
	limitDownload
	limitLookup // needs no account, and may lead to a request to another server
	limitCostly
	limitSearch // looks through many events
	limitOther
	limitClasses
)

// Limits are the rates that clients may call at. The zero value limits nothing.
type Limits struct {
	Enabled      bool
	Login        Class
	Registration Class
	Message      Class
	Join         Class
	Media        Class
	Download     Class
	Lookup       Class
	Costly       Class
	Search       Class
	Other        Class
}

// Class is a pair of rates, both of which a call has to pass.
type Class struct {
	PerUser    Rate
	PerAddress Rate
}

// Rate allows Count calls at once and as many in each Per. A zero Rate does not limit.
type Rate struct {
	Count int
	Per   time.Duration
}

// maxBuckets bounds the table of those who were seen lately.
const maxBuckets = 1 << 16

type bucket struct {
	class limitClass
	who   string
}

const (
	// loginSlots is how many buckets there are for the names that are logged in as. Names share them, so that made-up
	// ones do not push the buckets of others out.
	loginSlots = 1 << 14
	// loginAddresses is by how much more often a user may be logged in as from all addresses together than from one:
	// who fails from one address does not lock the user out at another.
	loginAddresses = 10
)

// limiter counts the calls of users and addresses. Who has long been silent is forgotten.
type limiter struct {
	classes [limitClasses]Class
	buckets *otter.Cache[bucket, *line]
	seed    maphash.Seed // nobody can tell which names share a bucket
}

func newLimiter(l Limits) *limiter {
	if !l.Enabled {
		return &limiter{}
	}
	return &limiter{
		classes: [limitClasses]Class{
			limitLogin: l.Login, limitConfirm: l.Login, limitRegistration: l.Registration, limitMessage: l.Message, limitJoin: l.Join, limitCopy: l.Message,
			limitMedia: l.Media, limitDownload: l.Download, limitLookup: l.Lookup, limitCostly: l.Costly, limitSearch: l.Search, limitOther: l.Other,
		},
		seed:    maphash.MakeSeed(),
		buckets: otter.Must(&otter.Options[bucket, *line]{MaximumSize: maxBuckets}),
	}
}

// check counts a call and refuses it if its user or its address calls too often.
func (l *limiter) check(class limitClass, c *call) error {
	if class == none || l.buckets == nil {
		return nil
	}
	now := time.Now()
	if user := c.Requester.User; user != "" {
		if wait := l.take(bucket{class, string(user)}, l.classes[class].PerUser, 1, now); wait > 0 {
			return tooFast(wait)
		}
	}
	if limit := l.classes[class].PerAddress; limit.Count > 0 {
		if wait := l.take(bucket{class, network(c.RealIP())}, limit, 1, now); wait > 0 {
			return tooFast(wait)
		}
	}
	return nil
}

// checkMore counts as n more calls of a class what a call of it costs beside, or as all that a user may make at once beside
// the call itself.
func (l *limiter) checkMore(class limitClass, c *call, n int) error {
	if n <= 0 || l.buckets == nil {
		return nil
	}
	limit := l.classes[class].PerUser
	if wait := l.take(bucket{class, string(c.Requester.User)}, limit, min(n, max(limit.Count-1, 0)), time.Now()); wait > 0 {
		return tooFast(wait)
	}
	return nil
}

// owe counts as n more calls of a class what a call of it has written. If those are more than the user may make at once, the
// next has to wait the longer.
func (l *limiter) owe(class limitClass, c *call, n int) {
	limit := l.classes[class].PerUser
	if l.buckets == nil || limit.Count <= 0 || limit.Per <= 0 {
		return
	}
	b, ok := l.buckets.GetIfPresent(bucket{class, string(c.Requester.User)})
	if !ok {
		b = l.fresh(bucket{class, string(c.Requester.User)}, limit)
	}
	for now := time.Now(); n > 0; n -= limit.Count {
		b.ReserveN(now, min(n, limit.Count))
	}
}

// checkLogin counts an attempt to log in as a user: those from one address, and those from all.
func (l *limiter) checkLogin(c *call, user id.UserID) error {
	if l.buckets == nil {
		return nil
	}
	now := time.Now()
	slot := strconv.FormatUint(maphash.String(l.seed, string(user))%loginSlots, 10)
	one := l.classes[limitLogin].PerUser
	all := Rate{one.Count * loginAddresses, one.Per}
	wait := l.take(bucket{limitLogin, slot + " " + network(c.RealIP())}, one, 1, now)
	if wait == 0 {
		wait = l.take(bucket{limitLogin, slot}, all, 1, now)
	}
	if wait > 0 {
		return tooFast(wait)
	}
	return nil
}

// stranger is the address of who is not known yet, as store.Asker has it.
type stranger string

func (s stranger) String() string { return network(string(s)) }

// network is what an address is counted by: the 64 bits of an IPv6 address that one household or host has for itself.
func network(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil || a.Unmap().Is4() {
		return address
	}
	p, err := a.Prefix(64)
	if err != nil {
		return address
	}
	return p.String()
}

func tooFast(wait time.Duration) error {
	return &failure{status: http.StatusTooManyRequests, code: "M_LIMIT_EXCEEDED", message: "too many requests", after: wait}
}

// take uses n calls up, which are no more than may be made at once, or says how long to wait for them.
func (l *limiter) take(b bucket, r Rate, n int, now time.Time) time.Duration {
	if r.Count <= 0 || r.Per <= 0 {
		return 0
	}
	bucket, ok := l.buckets.GetIfPresent(b)
	if !ok {
		bucket = l.fresh(b, r)
	}
	reservation := bucket.ReserveN(now, n)
	wait := reservation.DelayFrom(now)
	if wait < time.Millisecond {
		return 0 // who comes at the moment that was told is not sent to the end of the line for a rounding
	}
	reservation.CancelAt(now)
	return bucket.place(now, wait, time.Duration(n)*r.Per/time.Duration(r.Count))
}

// fresh is the bucket of who has not been seen lately, unless another call has just made it.
func (l *limiter) fresh(b bucket, r Rate) *line {
	all, _ := l.buckets.SetIfAbsent(b, &line{Limiter: rate.NewLimiter(rate.Limit(float64(r.Count)/r.Per.Seconds()), r.Count)})
	return all
}

// longestLine is how far behind the first of those who wait the last one is told to come, at most. Who does not wait as
// told makes the line longer for all that share it, but no longer than this.
const longestLine = time.Minute

// line is a bucket, and those who were told when to come again. Each has a place of their own: of all who come at the same
// moment, only the first would be let in.
type line struct {
	*rate.Limiter

	mu   sync.Mutex
	last time.Time // the last place that was given
}

// place is how long to wait for the place behind the last one, where the first is free after wait.
func (l *line) place(now time.Time, wait, each time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	first, next := now.Add(wait), l.last.Add(each)
	if next.Before(first) || next.Sub(first) > longestLine {
		next = first
	}
	l.last = next
	return next.Sub(now)
}

// places counts what each user has open at a time.
type places struct {
	inLine int // how many calls of a user may wait for a place; zero means inLine

	mu      sync.Mutex
	taken   map[id.UserID]int
	waiting map[id.UserID]int
	freed   chan struct{} // closed when a place is given back that somebody may wait for
}

// inLine is how many calls of a user may wait for a place, and linePatience for how long.
const (
	inLine       = 4
	linePatience = 10 * time.Second
)

// await takes a place like enter. If the user has that many, it waits for one, unless enough do.
func (p *places) await(ctx context.Context, user id.UserID, most int) (leave func(), err error) {
	if leave, err = p.enter(user, most); err == nil {
		return leave, nil
	}
	patient, cancel := context.WithTimeout(ctx, linePatience)
	defer cancel()
	if !p.line(user, 1) {
		return nil, err
	}
	defer p.line(user, -1)
	for {
		p.mu.Lock()
		if p.freed == nil {
			p.freed = make(chan struct{})
		}
		freed := p.freed
		p.mu.Unlock()
		if leave, err = p.enter(user, most); err == nil {
			return leave, nil
		}
		select {
		case <-freed:
		case <-patient.Done():
			return nil, err
		}
	}
}

// line has a call of a user stand in line, or leave it; false if the line is full.
func (p *places) line(user id.UserID, n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting == nil {
		p.waiting = map[id.UserID]int{}
	}
	if n > 0 && p.waiting[user] >= max(p.inLine, inLine) {
		return false
	}
	if p.waiting[user] += n; p.waiting[user] == 0 {
		delete(p.waiting, user)
	}
	return true
}

// enter takes a place, if the user has not that many already. leave gives it back.
func (p *places) enter(user id.UserID, most int) (leave func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[user] >= most {
		return nil, &failure{status: http.StatusTooManyRequests, code: "M_LIMIT_EXCEEDED", message: "too many requests of this kind at a time", after: spread(time.Second)}
	}
	if p.taken == nil {
		p.taken = map[id.UserID]int{}
	}
	p.taken[user]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.taken[user]--; p.taken[user] == 0 {
			delete(p.taken, user)
		}
		if p.freed != nil {
			close(p.freed)
			p.freed = nil
		}
	}, nil
}
