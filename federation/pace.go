package federation

import (
	"net/http"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"
)

// Rate allows Count requests at once and as many in each Per. A zero Rate does not limit.
type Rate struct {
	Count int
	Per   time.Duration
}

// maxPaced bounds the table of those who were heard of lately.
const maxPaced = 1 << 14

// pace counts the requests of each server, or of each address or IPv6 network where no server
// is named.
type pace struct {
	Rate
	seen *otter.Cache[string, *rate.Limiter]
}

func newPace(r Rate) pace {
	return pace{r, otter.Must(&otter.Options[string, *rate.Limiter]{MaximumSize: maxPaced})}
}

// check counts a request, and refuses it if there were too many.
func (p pace) check(who string) error {
	if p.Count <= 0 || p.Per <= 0 {
		return nil
	}
	limiter, ok := p.seen.GetIfPresent(who)
	if !ok {
		limiter, _ = p.seen.SetIfAbsent(who, rate.NewLimiter(rate.Limit(float64(p.Count)/p.Per.Seconds()), p.Count))
	}
	return take(limiter)
}

// exhausted refuses who has been counted as often as may be, without counting.
func (p pace) exhausted(who string) error {
	limiter, ok := p.seen.GetIfPresent(who)
	if !ok || limiter.Tokens() >= 1 {
		return nil
	}
	return take(limiter)
}

func take(limiter *rate.Limiter) error {
	now := time.Now()
	reservation := limiter.ReserveN(now, 1)
	wait := reservation.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	reservation.CancelAt(now)
	return &failure{
		status: http.StatusTooManyRequests, code: "M_LIMIT_EXCEEDED", message: "too many requests",
		extra: map[string]any{"retry_after_ms": wait.Milliseconds() + 1},
	}
}
