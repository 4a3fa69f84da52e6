package migrations_test

import (
	"context"
	"errors"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // registers the driver "pgx"
	_ "modernc.org/sqlite"             // registers the driver "sqlite"

	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/migrations"
)

// TestNewerSchemaIsRefused has a newer program take the schema one step further.
func TestNewerSchemaIsRefused(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		for range 2 { // made, and opened as it is
			db, err := store.Open(context.Background(), store.Options{URL: address, Readers: 1})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
		raw := open(t, address)
		_, err := raw.Exec(`INSERT INTO schema_steps (number, name) SELECT max(number) + 1, 'of tomorrow' FROM schema_steps`)
		if err = errors.Join(err, raw.Close()); err != nil {
			t.Fatal(err)
		}
		db, err := store.Open(context.Background(), store.Options{URL: address, Readers: 1})
		if !errors.Is(err, migrations.ErrNewer) {
			t.Errorf("a newer schema: %v", err)
		}
		if db != nil {
			_ = db.Close()
		}
	})
}
