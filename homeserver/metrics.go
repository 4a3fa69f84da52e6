package homeserver

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/securecomm/securecomm/homeserver/store"
)

// countUsersEvery is how long a count of the users holds: the table is read through for it.
const countUsersEvery = time.Minute

// expose adds to the metrics how the server and its parts are.
func (s *Server) expose() {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "securecomm_build_info", Help: "Always 1: the labels say which build runs.",
		ConstLabels: prometheus.Labels{"version": Version, "build": Build(), "go": runtime.Version()},
	})
	build.Set(1)
	s.metrics.registry.MustRegister(build)
	gauge := func(name, help string, value func() float64) {
		s.metrics.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	counter := func(name, help string, value func() int64) {
		s.metrics.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value()) }))
	}
	counter("securecomm_database_commits_total", "Transactions committed.", s.Store.Commits)
	counter("securecomm_database_updates_total", "Updates carried out in them.", s.Store.Updates)
	gauge("securecomm_database_updates_waiting", "Updates that wait for a transaction.", func() float64 { return float64(s.Store.Waiting()) })
	gauge("securecomm_users", "Accounts that are not deactivated.", s.countUsers())
	gauge("securecomm_tls_certificate_end_seconds", "When the TLS certificate that was given last ends, in seconds since 1970; 0 without one.", func() float64 {
		if c := s.certificates.Load(); c != nil {
			return float64(c.ends.Load())
		}
		return 0
	})
	if s.Sender == nil {
		return
	}
	gauge("securecomm_federation_queues", "Servers that something waits for, or is being sent to.", func() float64 { queues, _ := s.Sender.Count(); return float64(queues) })
	gauge("securecomm_federation_failing_servers", "Servers that could not be reached the last time.", func() float64 { _, failing := s.Sender.Count(); return float64(failing) })
}

// countUsers counts the users for whoever asks, now and then.
func (s *Server) countUsers() func() float64 {
	var mu sync.Mutex
	var at time.Time
	var users int
	return func() float64 {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(at) > countUsersEvery {
			ctx, cancel := context.WithTimeout(s.background, probePatience)
			defer cancel()
			err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
				users, err = tx.Users.Count()
				return err
			})
			if err != nil {
				s.Log.Warn("cannot count the users", "err", err)
			}
			at = time.Now()
		}
		return float64(users)
	}
}
