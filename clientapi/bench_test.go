package clientapi

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/store"
)

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// BenchmarkWhoami is what every authenticated request costs around its handler.
func BenchmarkWhoami(b *testing.B) {
	log := slog.New(slog.DiscardHandler)
	db, err := store.Open(b.Context(), store.Options{URL: filepath.Join(b.TempDir(), "test.db"), Log: log})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	s := account.New(account.Options{DB: db, Server: "example.org", Log: log, Registration: account.Registration{Open: true}})
	l, err := s.Create(b.Context(), account.Account{Username: "alice", Password: "superuser"})
	if err != nil {
		b.Fatal(err)
	}
	e := echo.New()
	(&API{Server: "example.org", Store: db, Log: log, Account: s}).Register(e)
	r := httptest.NewRequest(GET, v3+"/account/whoami", nil)
	r.Header.Set("Authorization", "Bearer "+l.AccessToken)
	w := discard{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		e.ServeHTTP(w, r)
	}
}
