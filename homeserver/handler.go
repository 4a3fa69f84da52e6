package homeserver

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/securecomm/securecomm/homeserver/store"
)

// metrics are what /metrics shows. Each server has its own registry.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
	handler  http.Handler
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "securecomm_http_request_duration_seconds", Help: "Time from a request to the end of its answer, long polls included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30},
		}, []string{"method", "route", "status"}),
	}
	m.registry.MustRegister(m.requests, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	return m
}

// observe measures requests by route.
func (m *metrics) observe(method, route string, status int, took time.Duration) {
	if route == "" {
		route = "none"
	}
	m.requests.WithLabelValues(method, route, strconv.Itoa(status)).Observe(took.Seconds())
}

// around adds to an API what all listeners serve besides. federation is the other API if it has the same listener, where
// paths tell the two apart; nil if not.
func (s *Server) around(api, federation http.Handler) http.Handler {
	metrics := s.guardMetrics(s.metrics.handler)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case path == "/health":
			s.health(w, r)
		case path == "/metrics" && s.Config.Listen.Metrics == "":
			metrics.ServeHTTP(w, r)
		case federation != nil && (strings.HasPrefix(path, "/_matrix/federation/") || strings.HasPrefix(path, "/_matrix/key/")):
			federation.ServeHTTP(w, r)
		default:
			api.ServeHTTP(w, r)
		}
	})
}

// health says whether the database answers.
func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	err := s.Store.View(r.Context(), func(tx *store.Tx) error {
		_, err := tx.Position()
		return err
	})
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		s.Log.Error("unhealthy", "err", err)
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte(`{"status":"the database does not answer"}`))
		return
	}
	_, _ = w.Write([]byte(`{"status":"ok"}`))
}

// guardMetrics lets in only the networks that the configuration names.
func (s *Server) guardMetrics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && contains(s.Config.Listen.MetricsNetworks, from.Addr()) {
			next.ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
	})
}

func contains(networks []netip.Prefix, address netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(address.Unmap()) {
			return true
		}
	}
	return false
}
