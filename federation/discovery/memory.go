package discovery

import (
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

const (
	// maxKnown bounds the remembered answers; at the limit, stale ones go first, then any.
	maxKnown = 10000

	minWellKnownLifetime     = time.Hour
	defaultWellKnownLifetime = 24 * time.Hour
	maxWellKnownLifetime     = 48 * time.Hour

	// A failed .well-known is asked again after a minute, then after twice as long each time.
	minFailureLifetime = time.Minute
	maxFailureLifetime = time.Hour
)

// answer is what is known of one server name.
type answer struct {
	target   Target
	err      error
	lifetime time.Duration
	until    time.Time
	failures int // of .well-known in a row
}

func (r *Resolver) recall(name id.ServerName) (answer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.known[name]
	return a, ok && time.Now().Before(a.until)
}

// failures counts how often in a row .well-known failed, as far as it is remembered.
func (r *Resolver) failures(name id.ServerName) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[name].failures
}

func (r *Resolver) remember(name id.ServerName, a answer) {
	now := time.Now()
	a.until = now.Add(a.lifetime)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil {
		r.known = map[id.ServerName]answer{}
	}
	if len(r.known) >= maxKnown {
		r.forget(now)
	}
	r.known[name] = a
}

// forget makes room: all stale answers go, and one more if there were none.
func (r *Resolver) forget(now time.Time) {
	for name, a := range r.known {
		if !now.Before(a.until) {
			delete(r.known, name)
		}
	}
	for name := range r.known {
		if len(r.known) < maxKnown {
			return
		}
		delete(r.known, name)
	}
}

// failureLifetime is how long the n-th failure in a row is remembered.
func failureLifetime(n int) time.Duration {
	d := minFailureLifetime
	for range n - 1 {
		if d *= 2; d >= maxFailureLifetime {
			return maxFailureLifetime
		}
	}
	return d
}
