package hstest

import (
	"io"
	"log/slog"
	"strings"

	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// Backup copies the server's database and returns what puts the copy in its place, as when an administrator restores it.
// SQLite is copied under the running server; with PostgreSQL the server is stopped for it and starts again.
func (s *Server) Backup() (restore func()) {
	s.t.Helper()
	address, embedded := strings.CutPrefix(s.config.DatabaseURL(), "sqlite://")
	var kept string
	if embedded {
		kept = storetest.Copy(s.t, address)
	} else {
		s.restart(func() { kept = storetest.Copy(s.t, address) })
	}
	return func() { s.restart(func() { Database(kept)(s.config) }) }
}

// restart stops the server, does something and starts it again.
func (s *Server) restart(between func()) {
	s.t.Helper()
	if err := s.Stop(); err != nil {
		s.t.Fatal(err)
	}
	between()
	s.Start()
}

// LogTo starts the server again with a log in JSON.
func (s *Server) LogTo(w io.Writer) {
	s.t.Helper()
	s.restart(func() { s.log = slog.New(slog.NewJSONHandler(w, nil)) })
}
