// Package storetest runs a test on each database: SQLite, and PostgreSQL where the variable
// SECURECOMM_TEST_POSTGRES holds the address of a server on which databases may be made.
//
// Under CI (CI=true) a missing PostgreSQL is a failure. Only tests import this package.
package storetest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"flag"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // registers the driver "pgx"
	"pgregory.net/rapid"

	"github.com/securecomm/securecomm/homeserver/store"
)

// Variable names the address of PostgreSQL in the environment.
const Variable = "SECURECOMM_TEST_POSTGRES"

// Each runs a test on SQLite and on PostgreSQL, each with an empty database of its own.
func Each(t *testing.T, test func(t *testing.T, db *store.DB)) {
	t.Helper()
	EachURL(t, func(t *testing.T, address string) { test(t, Open(t, address)) })
}

// EachURL is Each for tests that open the database themselves, perhaps several times.
func EachURL(t *testing.T, test func(t *testing.T, address string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, filepath.Join(t.TempDir(), "test.db")) })
	t.Run("postgres", func(t *testing.T) { test(t, Postgres(t)) })
}

// Check is rapid.Check for what a package above the store says of its own rules, in a test of Each: all cases on SQLite, and
// a quarter on PostgreSQL, where they take several times as long and only the store below could differ.
func Check(t *testing.T, property func(*rapid.T)) {
	t.Helper()
	if checks := flag.Lookup("rapid.checks"); checks != nil && strings.Contains(t.Name(), "/postgres") {
		all := checks.Value.String()
		n, err := strconv.Atoi(all)
		if err == nil {
			err = checks.Value.Set(strconv.Itoa(max(n/4, 1)))
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = checks.Value.Set(all) }()
	}
	rapid.Check(t, property)
}

// Open opens a database and closes it at the end of the test.
func Open(t testing.TB, address string) *store.DB {
	t.Helper()
	db, err := store.Open(context.Background(), store.Options{URL: address, Readers: 4, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// Postgres makes an empty PostgreSQL database, dropped at the end of the test, and returns its address.
func Postgres(t testing.TB) string {
	t.Helper()
	address := os.Getenv(Variable)
	if address == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal(Variable + " is not set, and CI has to run the tests on PostgreSQL")
		}
		t.Skip(Variable + " is not set")
	}
	return makePostgres(t, address, "")
}

// makePostgres makes a database on the server at an address: empty, or a copy of another one.
func makePostgres(t testing.TB, address, template string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := sql.Open("pgx", os.Getenv(Variable))
	if err != nil {
		t.Fatal(err)
	}
	name := "securecomm_test_" + strings.ToLower(rand.Text())
	create := "CREATE DATABASE " + name
	if template != "" {
		create += " TEMPLATE " + template
	}
	if _, err := admin.Exec(create); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := admin.Exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Error(err)
		}
		admin.Close()
	})
	u.Path = "/" + name
	return u.String()
}

// Hide takes a table away from a database that is open, so that what needs it fails as by a fault of the disk, until the
// function returned is called.
func Hide(t testing.TB, address, table string) (show func()) {
	t.Helper()
	driver, dsn := "sqlite", "file:"+filepath.ToSlash(address)+"?_pragma=busy_timeout(60000)"
	if strings.HasPrefix(address, "postgres") {
		driver, dsn = "pgx", address
	}
	rename := func(from, to string) {
		db, err := sql.Open(driver, dsn)
		if err == nil {
			_, err = db.Exec("ALTER TABLE " + from + " RENAME TO " + to)
			err = errors.Join(err, db.Close())
		}
		if err != nil {
			t.Error(err)
		}
	}
	rename(table, table+"_hidden")
	return func() { rename(table+"_hidden", table) }
}

// Copy copies a database as it is and returns the copy's address. An SQLite database may be open meanwhile, a PostgreSQL
// database must not.
func Copy(t testing.TB, address string) string {
	t.Helper()
	if strings.HasPrefix(address, "postgres") {
		from, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		return makePostgres(t, address, strings.TrimPrefix(from.Path, "/"))
	}
	to := filepath.Join(t.TempDir(), "copy.db")
	db, err := sql.Open("sqlite", address)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec("VACUUM INTO ?", to)
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return to
}

// TakeLock ends all connections to a PostgreSQL database, takes an advisory lock in it, until release is called, and runs
// statements.
func TakeLock(t testing.TB, address string, lock int64, statements ...string) (release func()) {
	t.Helper()
	db, err := sql.Open("pgx", address)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1) // the lock is the connection's
	for taken := false; !taken; {
		if _, err := db.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
			t.Fatal(err)
		}
		if err := db.QueryRow(`SELECT pg_try_advisory_lock($1)`, lock).Scan(&taken); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Postgresql runs a statement as the administrator of PostgreSQL.
func Postgresql(t testing.TB, statement string) {
	t.Helper()
	admin, err := sql.Open("pgx", os.Getenv(Variable))
	if err != nil {
		t.Fatal(err)
	}
	_, err = admin.Exec(statement)
	if err = errors.Join(err, admin.Close()); err != nil {
		t.Fatal(err)
	}
}

// Damage spoils the first page of a table of a file of SQLite that is not open. The function returned mends it.
func Damage(t testing.TB, path, table string) (mend func()) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	var page, size int64
	err = db.QueryRow(`SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_master WHERE name = ?`, table).Scan(&page, &size)
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	whole, at := make([]byte, size), (page-1)*size
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		_, err = f.ReadAt(whole, at)
	}
	if err == nil {
		_, err = f.WriteAt(make([]byte, size), at)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() }) // not before: SQLite's locks are the process's, and would go with it
	return func() {
		if _, err := f.WriteAt(whole, at); err != nil {
			t.Error(err)
		}
	}
}

// DamagePostgres has PostgreSQL answer with an error code to whatever needs a table. The function returned mends it.
func DamagePostgres(t testing.TB, address, table, code string) (mend func()) {
	t.Helper()
	db, err := sql.Open("pgx", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	run := func(statement string) {
		t.Helper()
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	function := func(body string) {
		run(`CREATE OR REPLACE FUNCTION whole() RETURNS boolean STABLE LANGUAGE plpgsql AS $$ BEGIN ` + body + ` END $$`)
	}
	function(`RAISE EXCEPTION 'invalid page' USING ERRCODE = '` + code + `';`)
	run(`ALTER TABLE ` + table + ` RENAME TO ` + table + `_stored`)
	run(`CREATE VIEW ` + table + ` AS SELECT * FROM ` + table + `_stored WHERE whole() WITH CHECK OPTION`)
	return func() { function(`RETURN TRUE;`) }
}
