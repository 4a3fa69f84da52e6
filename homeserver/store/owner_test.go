package store_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

// TestDisowned has another process use a database whose owner has lost its connection.
func TestDisowned(t *testing.T) {
	address := storetest.Postgres(t)
	db, err := openAlone(t, address)
	if err != nil || !db.Owned.Load() {
		t.Fatal(err)
	}
	release := storetest.TakeLock(t, address, 7305502)
	storetest.Open(t, address)
	if _, err := openAlone(t, address); !errors.Is(err, store.ErrOwned) {
		t.Errorf("a database that another one has: %v", err)
	}
	release()
	<-db.Disowned()
	if db.Owned.Load() {
		t.Error("the database is still taken for one's own")
	}
}

// TestForgetfulDatabase: a database that comes back without what was written last, as a replica that lagged behind does, is
// no longer what the process knows; positions of the log would come a second time.
func TestForgetfulDatabase(t *testing.T) {
	for what, lost := range map[string]int{"nothing": 0, "something": 1} {
		address := storetest.Postgres(t)
		db, err := openAlone(t, address)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := db.Update(t.Context(), func(tx *store.Tx) error {
				tx.Outbox.AddEDU([]id.ServerName{"two.test"}, store.DataUnit{JSON: []byte(`{}`)})
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		release := storetest.TakeLock(t, address, 7305502, fmt.Sprintf(`UPDATE counters SET value = value - %d WHERE name = 'log'`, lost))
		waittest.Until(t, "the database is known to be another's", db.Taken.Load)
		if db.Owned.Load() {
			t.Error("a database that another has is owned")
		}
		release()
		if lost > 0 {
			waittest.Get(t, "the end of what owned it", db.Disowned())
		} else {
			waittest.Until(t, "it is owned again", db.Owned.Load)
		}
		if lost > 0 == db.Owned.Load() {
			t.Errorf("%s was lost: owned: %v", what, db.Owned.Load())
		}
	}
}

// TestCheckChangesNothing looks at databases that are there, that are not yet, and that cannot be.
func TestCheckChangesNothing(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		if _, err := store.Check(t.Context(), address); err != nil {
			t.Errorf("before it is made: %v", err)
		}
		if _, err := os.Stat(address); !strings.HasPrefix(address, "postgres") && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it was made by being looked at: %v", err)
		}
		storetest.Open(t, address)
		if _, err := store.Check(t.Context(), address); err != nil {
			t.Errorf("once it is made: %v", err)
		}
	})
	path := t.TempDir() + "/broken.db"
	if err := os.WriteFile(path, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Check(t.Context(), path); err == nil {
		t.Error("what is no database is one")
	}
	const secret = "hunter2"
	for _, address := range []string{"postgres://u:" + secret + "#x@127.0.0.1:1/d", "postgres://u:x#" + secret + "@127.0.0.1/d", "postgres://u:" + secret + "@127.0.0.1:1/d?connect_timeout=1"} {
		_, err := store.Check(t.Context(), address)
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("of a database that is not there: %v", err)
		}
	}
}

// TestEncoding has a database that cannot hold every text.
func TestEncoding(t *testing.T) {
	address := storetest.Postgres(t)
	name := "securecomm_latin_" + strings.ToLower(rand.Text())
	storetest.Postgresql(t, "CREATE DATABASE "+name+" ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
	t.Cleanup(func() { storetest.Postgresql(t, "DROP DATABASE "+name+" WITH (FORCE)") })
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	_, opened := openAlone(t, u.String())
	_, checked := store.Check(t.Context(), u.String())
	for what, err := range map[string]error{"check": checked, "open": opened} {
		if err == nil || !strings.Contains(err.Error(), "LATIN1") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func openAlone(t *testing.T, address string) (*store.DB, error) {
	db, err := store.Open(t.Context(), store.Options{URL: address, Readers: 1, Alone: true})
	if err == nil {
		t.Cleanup(func() { _ = db.Close() })
	}
	return db, err
}
