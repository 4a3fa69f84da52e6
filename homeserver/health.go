package homeserver

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/securecomm/securecomm/homeserver/store"
)

// The paths at which others look after the server.
const (
	livePath   = "/live"   // the process answers; nothing is asked
	readyPath  = "/ready"  // it takes traffic: it reads, writes and is not stopping
	healthPath = "/health" // the same, with the reasons if it does not
)

const (
	// probeEvery is how long an answer to the two holds: everybody may ask, and asking writes.
	probeEvery = time.Second
	// probePatience is how long the database may take.
	probePatience = 5 * time.Second
	// retryAfter is how long a client is told to wait while a known fault lasts.
	retryAfter = 10 * time.Second
	probeFact  = "probe"
)

// probe is how the server was found the last time.
type probe struct {
	mu      sync.Mutex
	at      time.Time
	reasons []string
}

// reasons are why the server takes no traffic; none if it does.
func (s *Server) reasons() []string {
	if s.draining.Err() != nil {
		return []string{"the server is stopping"}
	}
	p := &s.probe
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.at) < probeEvery {
		return p.reasons
	}
	p.reasons = nil
	switch {
	case s.Store.Owned.Load():
	case s.Store.Taken.Load():
		p.reasons = append(p.reasons, "another process uses the database")
	default:
		p.reasons = append(p.reasons, "the lock on the database is lost, and not there again yet")
	}
	inTime(s.checkDamage)
	if s.Store.Damaged() {
		p.reasons = append(p.reasons, "the database is damaged: stop the server and restore a backup")
	}
	if !inTime(s.Store.CheckRead) {
		p.reasons = append(p.reasons, "the database cannot be read")
	} else if !inTime(s.writable) {
		p.reasons = append(p.reasons, "the database cannot be written to")
	}
	if !inTime(s.Media.CheckWrite) {
		p.reasons = append(p.reasons, "the media folder cannot be written to")
	}
	p.at = time.Now()
	return p.reasons
}

// inTime says whether something works within probePatience. What does not end goes on: it ends with the database.
func inTime(works func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(context.Background(), probePatience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- works(ctx) }()
	select {
	case err := <-done:
		return err == nil
	case <-ctx.Done():
		return false
	}
}

func (s *Server) checkDamage(ctx context.Context) error {
	s.Store.CheckDamage(ctx)
	return nil
}

func (s *Server) writable(ctx context.Context) error {
	return s.Store.CheckWrite(ctx, func(tx *store.Tx) error { return tx.SetFact(probeFact, time.Now().UTC().Format(time.RFC3339Nano)) })
}

// tellHealth answers the three paths.
func (s *Server) tellHealth(w http.ResponseWriter, path string) {
	var reasons []string
	if path != livePath {
		reasons = s.reasons()
	}
	answer := map[string]any{"status": "ok"}
	w.Header().Set("Content-Type", "application/json")
	if len(reasons) > 0 {
		answer["status"] = "unavailable"
		if path == healthPath {
			answer["reasons"] = reasons
		}
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
		w.WriteHeader(http.StatusServiceUnavailable)
	} else if path == healthPath && s.Media.NearlyFull() {
		answer["status"], answer["reasons"] = "degraded", []string{"the disk of the media folder is nearly full: no media is taken"}
	}
	_ = json.NewEncoder(w).Encode(answer) // whoever asked has gone
}

// refuseAll answers a request while another process may be using the database.
func refuseAll(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = w.Write([]byte(`{"errcode":"M_UNKNOWN","error":"the server is not available just now"}`))
}
