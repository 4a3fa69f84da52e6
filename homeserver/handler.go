package homeserver

import (
	"crypto/rand"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/securecomm/securecomm/clientapi"
)

// metrics are what /metrics shows. Each server has its own registry.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
	setAside prometheus.Counter
	handler  http.Handler
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "securecomm_http_request_duration_seconds", Help: "Time from a request to the end of its answer, long polls included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30},
		}, []string{"method", "route", "status"}),
		setAside: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "securecomm_federation_set_aside_total", Help: "Events and data units of other servers that faults of this one kept out for good.",
		}),
	}
	m.registry.MustRegister(m.requests, m.setAside, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	return m
}

var methods = []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodHead, http.MethodOptions}

// observe measures requests by route.
func (m *metrics) observe(method, route string, status int, took time.Duration) {
	if route == "" {
		route = "none"
	}
	if !slices.Contains(methods, method) {
		method = "other" // anybody can make methods up, and each would be counted for itself
	}
	m.requests.WithLabelValues(method, route, strconv.Itoa(status)).Observe(took.Seconds())
}

// around adds to an API what all listeners serve besides. federation is the other API if it has the same listener, where
// paths tell the two apart; nil if not. Requests get their names, and bodies a time to arrive in: who has read one takes
// that limit away again, so that answers may take longer.
func (s *Server) around(api, federation http.Handler) http.Handler {
	metrics := s.guardMetrics(s.metrics.handler)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The name that a proxy or a client gave a request, if it can stand in a log; else a new one.
		name := r.Header.Get("X-Request-Id")
		if name == "" || len(name) > maxRequestID || strings.Trim(name, requestIDCharacters) != "" {
			name = rand.Text()
		}
		w.Header()["X-Request-Id"] = []string{name}
		if r.ProtoMajor >= 2 {
			p := &paced{ResponseWriter: w}
			defer p.end()
			w = p
		}
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)) // tests have no connection
		}
		switch path := r.URL.Path; {
		case path == livePath || path == readyPath || path == healthPath:
			s.tellHealth(w, path)
		case path == "/":
			s.page(w, r)
		case path == metricsPath && s.Config.Listen.Metrics == "":
			metrics.ServeHTTP(w, r)
		case !s.Store.Owned.Load():
			refuseAll(w)
		case federation != nil && (strings.HasPrefix(path, "/_matrix/federation/") || strings.HasPrefix(path, "/_matrix/key/")):
			federation.ServeHTTP(w, r)
		default:
			api.ServeHTTP(w, r)
		}
	})
}

// maxRequestID is the longest name of a request that is taken from outside.
const maxRequestID = 64

const requestIDCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

const metricsPath = "/metrics"

// onlyMetrics is what a listener of its own serves.
func (s *Server) onlyMetrics() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(metricsPath, s.guardMetrics(s.metrics.handler))
	return mux
}

// guardMetrics lets in only the networks that the configuration names. For whom a trusted proxy asks is what counts.
func (s *Server) guardMetrics(next http.Handler) http.Handler {
	address := clientapi.AddressOf(s.Config.Listen.TrustedProxies)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if from, err := netip.ParseAddr(address(r)); err == nil && contains(s.Config.Listen.MetricsNetworks, from) {
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

// Answers may take as long as a client keeps reading them. Time in which nothing is being written does not count, so
// long polls may wait.
const (
	readingPause   = time.Minute // without a single piece, after which a client is cut off
	readingSlowest = 4 << 10     // bytes a second on average, beside readingPause
	readingPiece   = 64 << 10
)

// sendBuffer is what of an answer waits in the system for a client that reads slowly, in bytes. The memory of all connections
// is one pool, and of its own accord the system gives each some megabytes of it.
const sendBuffer = 256 << 10

// pace is how a client has read so far.
type pace struct {
	left  time.Duration // that it may take at the end of the last piece
	ended time.Time     // when that was
}

// write writes in pieces, each with its deadline.
func (c *pace) write(p []byte, deadline func(time.Time) error, write func([]byte) (int, error)) (n int, err error) {
	for n < len(p) && err == nil {
		began := time.Now()
		left := min(readingPause, c.left+min(readingPause, began.Sub(c.ended)))
		if err = deadline(began.Add(left)); err != nil {
			break
		}
		var written int
		written, err = write(p[n:min(len(p), n+readingPiece)])
		n += written
		c.ended = time.Now()
		c.left = left - c.ended.Sub(began) + time.Duration(written)*time.Second/readingSlowest
	}
	return n, err
}

// reader is the connection of a client, which is cut off if it reads its answers too slowly. Deadlines that are set from
// outside, as those of websockets, hold instead.
type reader struct {
	net.Conn
	pace pace

	mu      sync.Mutex // held while a deadline is set
	bounded bool       // from outside
}

func (r *reader) Write(p []byte) (n int, err error) {
	r.mu.Lock()
	bounded := r.bounded
	r.mu.Unlock()
	if bounded {
		return r.Conn.Write(p)
	}
	deadline := func(t time.Time) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.bounded { // meanwhile
			return nil
		}
		return r.Conn.SetWriteDeadline(t)
	}
	return r.pace.write(p, deadline, r.Conn.Write)
}

// paced is one of the answers on a connection of HTTP/2. Each is read at a speed of its own, which the connection knows
// nothing of.
type paced struct {
	http.ResponseWriter
	pace pace
}

func (s *paced) Write(p []byte) (n int, err error) {
	control := http.NewResponseController(s.ResponseWriter)
	n, err = s.pace.write(p, control.SetWriteDeadline, s.ResponseWriter.Write)
	_ = control.SetWriteDeadline(time.Time{}) // else it ends the stream also while nothing is being written
	return n, err
}

// end bounds the time for what is still held back when the handler has returned.
func (s *paced) end() {
	_ = http.NewResponseController(s.ResponseWriter).SetWriteDeadline(time.Now().Add(readingPause))
}

// Unwrap is for http.ResponseController.
func (s *paced) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// SetWriteDeadline is called for websockets and TLS handshakes, and by who ends an answer that nobody reads.
func (r *reader) SetWriteDeadline(t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bounded = !t.IsZero()
	return r.Conn.SetWriteDeadline(t)
}

// CloseWrite lets the last answer arrive on a connection whose request was not read to its end.
func (r *reader) CloseWrite() error {
	if c, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// readers are the connections of a listener.
type readers struct{ net.Listener }

func (l readers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if t, ok := c.(interface{ SetWriteBuffer(bytes int) error }); ok {
		_ = t.SetWriteBuffer(sendBuffer) // else it is as large as the system likes
	}
	return &reader{Conn: c}, nil
}
