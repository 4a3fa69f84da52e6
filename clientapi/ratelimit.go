package clientapi

import (
	"net/http"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"
)

// limitClass is a kind of calls that share a rate.
type limitClass uint8

const (
	none limitClass = iota
	limitLogin
	limitRegistration
	limitMessage
	limitJoin
	limitMedia
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

// limiter counts the calls of users and addresses. Who has long been silent is forgotten.
type limiter struct {
	classes [limitClasses]Class
	buckets *otter.Cache[bucket, *rate.Limiter]
}

func newLimiter(l Limits) *limiter {
	if !l.Enabled {
		return &limiter{}
	}
	return &limiter{
		classes: [limitClasses]Class{
			limitLogin: l.Login, limitRegistration: l.Registration, limitMessage: l.Message, limitJoin: l.Join, limitMedia: l.Media,
		},
		buckets: otter.Must(&otter.Options[bucket, *rate.Limiter]{MaximumSize: maxBuckets}),
	}
}

// check counts a call and refuses it if its user or its address calls too often.
func (l *limiter) check(class limitClass, c *call) error {
	if class == none || l.buckets == nil {
		return nil
	}
	now := time.Now()
	if user := c.Requester.User; user != "" {
		if wait := l.take(bucket{class, string(user)}, l.classes[class].PerUser, now); wait > 0 {
			return tooFast(wait)
		}
	}
	if wait := l.take(bucket{class, c.RealIP()}, l.classes[class].PerAddress, now); wait > 0 {
		return tooFast(wait)
	}
	return nil
}

// checkUser counts a call for a user who is known only from the request itself, such as who logs in.
func (l *limiter) checkUser(class limitClass, user string) error {
	if l.buckets == nil {
		return nil
	}
	if wait := l.take(bucket{class, user}, l.classes[class].PerUser, time.Now()); wait > 0 {
		return tooFast(wait)
	}
	return nil
}

func tooFast(wait time.Duration) error {
	return &failure{status: http.StatusTooManyRequests, code: "M_LIMIT_EXCEEDED", message: "too many requests", after: wait}
}

// take uses one call up, or says how long to wait for one.
func (l *limiter) take(b bucket, r Rate, now time.Time) time.Duration {
	if r.Count <= 0 || r.Per <= 0 {
		return 0
	}
	bucket, ok := l.buckets.GetIfPresent(b)
	if !ok {
		fresh := rate.NewLimiter(rate.Limit(float64(r.Count)/r.Per.Seconds()), r.Count)
		bucket, _ = l.buckets.SetIfAbsent(b, fresh)
	}
	reservation := bucket.ReserveN(now, 1)
	wait := reservation.DelayFrom(now)
	if wait > 0 {
		reservation.CancelAt(now)
	}
	return wait
}
