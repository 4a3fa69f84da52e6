package store

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"modernc.org/sqlite" // also registers the driver "sqlite"
)

// The differences between the two databases, all of them.

func isPostgres(address string) bool {
	return strings.HasPrefix(address, "postgres://") || strings.HasPrefix(address, "postgresql://")
}

// openPostgres uses the simple protocol, which needs one round trip a statement and works behind poolers.
func openPostgres(address string, connections int) (*bun.DB, error) {
	cfg, err := pgx.ParseConfig(address)
	if err != nil {
		// The parser's error repeats what it has read, perhaps with pieces of a password.
		return nil, errors.New("the database's address cannot be read: percent-encode what is special in its password")
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	cfg.RuntimeParams["client_encoding"] = "UTF8" // whatever the database or the user is set to
	raw := stdlib.OpenDB(*cfg)
	raw.SetMaxOpenConns(connections)
	raw.SetMaxIdleConns(connections)
	return bun.NewDB(raw, pgdialect.New()), nil
}

// openSQLite opens the file for the one writer, or for readers.
func openSQLite(path string, readOnly bool, connections int) (*bun.DB, error) {
	q := url.Values{}
	q.Add("_txlock", "immediate")
	q.Add("_pragma", "busy_timeout(10000)")
	q.Add("_pragma", "journal_mode(WAL)")
	q.Add("_pragma", "synchronous(FULL)")
	q.Add("_pragma", "foreign_keys(1)")
	q.Add("_pragma", "temp_store(MEMORY)")
	// The log is folded into the file in the background (see checkpoint), not by whoever commits next.
	q.Add("_pragma", "wal_autocheckpoint(0)")
	if readOnly {
		q.Add("_pragma", "query_only(1)")
		q.Add("_pragma", "cache_size(-2000)")
	} else {
		q.Add("_pragma", "cache_size(-8000)")
	}
	raw, err := sql.Open("sqlite", "file:"+filepath.ToSlash(path)+"?"+q.Encode())
	if err != nil {
		return nil, err
	}
	raw.SetMaxOpenConns(connections)
	raw.SetMaxIdleConns(connections)
	return bun.NewDB(raw, sqlitedialect.New()), nil
}

// lookAtSQLite opens a file of SQLite without changing it. With a log beside it that takes the log's index as well, which a
// running server and one that was killed have left.
func lookAtSQLite(path string) (*bun.DB, error) {
	q := url.Values{}
	q.Add("_pragma", "busy_timeout(10000)")
	q.Add("_pragma", "query_only(1)")
	if _, err := os.Stat(path + logSuffix); err == nil {
		q.Set("mode", "ro")
	} else {
		q.Set("immutable", "1")
	}
	raw, err := sql.Open("sqlite", "file:"+filepath.ToSlash(path)+"?"+q.Encode())
	if err != nil {
		return nil, err
	}
	raw.SetMaxOpenConns(1)
	return bun.NewDB(raw, sqlitedialect.New()), nil
}

// makePrivate makes the database's file before SQLite does, so that only its owner can read it. The files beside it
// get the same mode from SQLite.
func makePrivate(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	return f.Close()
}

func defaultReaders(postgres bool) int {
	if postgres {
		return 16
	}
	return max(4, 2*runtime.NumCPU())
}

// passing says whether an error is one of the database's condition and not of the statement.
func passing(err error) bool {
	var remote *pgconn.PgError
	if errors.As(err, &remote) {
		switch code := remote.Code; {
		case code == "08P01": // what was sent breaks the protocol: it would do so again
			return false
		default: // connection, resources, operator; serialization, deadlock, lock, a server that became read-only
			return slices.Contains([]string{"08", "53", "57", "58"}, code[:min(2, len(code))]) ||
				slices.Contains([]string{"40001", "40P01", "55P03", "25006"}, code)
		}
	}
	var local *sqlite.Error
	if errors.As(err, &local) {
		const busy, locked, noMemory, readOnly, ioErr, full, cantOpen = 5, 6, 7, 8, 10, 13, 14
		return slices.Contains([]int{busy, locked, noMemory, readOnly, ioErr, full, cantOpen}, local.Code()&0xff)
	}
	var network net.Error
	var connect *pgconn.ConnectError
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &connect) || errors.As(err, &network)
}

// damaging says whether an error tells that what is in the database's files is not as it was written.
func damaging(err error) bool {
	var remote *pgconn.PgError
	if errors.As(err, &remote) {
		return slices.Contains([]string{"XX001", "XX002"}, remote.Code) // data, an index
	}
	const corrupt, notADatabase = 11, 26
	var local *sqlite.Error
	return errors.As(err, &local) && slices.Contains([]int{corrupt, notADatabase}, local.Code()&0xff)
}

// forgetPages has a connection read pages anew. SQLite keeps those that it found damaged.
func forgetPages(c *conn) error {
	if c.postgres {
		return nil
	}
	_, err := c.exec("PRAGMA shrink_memory")
	return err
}

// PostgreSQL's text has no NUL, but a name of a piece of state may: it is written as two characters. Names without the
// two characters concerned, which are all that occur in peace, are stored as they are.
var (
	escapeNUL   = strings.NewReplacer("\x00", "\x010", "\x01", "\x011")
	unescapeNUL = strings.NewReplacer("\x010", "\x00", "\x011", "\x01")
)

// statements are those of transactions.
type statements struct {
	write, read string // begin one
	lock        string // reads the newest position of the log, which nobody else can move until the transaction ends
	move        string // moves it, to the first argument, if it is the second, and tells the transaction's name; it does not wait for others who move it
	name        string // tells the transaction's name; empty if the outcome of a commit is never in doubt
}

func begins(postgres bool) statements {
	const lock, newest = `SELECT value FROM counters WHERE name = 'log'`, `SELECT name FROM counters WHERE name = 'log' AND value = ?`
	if postgres {
		return statements{
			write: "BEGIN", read: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", lock: lock + " FOR UPDATE",
			move: `UPDATE counters SET value = ? WHERE name = (` + newest + ` FOR UPDATE SKIP LOCKED) RETURNING pg_current_xact_id()::text`,
			name: "SELECT pg_current_xact_id()::text",
		}
	}
	return statements{write: "BEGIN IMMEDIATE", read: "BEGIN", lock: lock, move: `UPDATE counters SET value = ? WHERE name = (` + newest + `) RETURNING ''`}
}

// disturbed says whether an error may come of another process that writes at the same time: of a deadlock, or of a row at
// a position that both counted on to unless this one has locked the counter. SQLite has one process that writes.
func disturbed(err error, locked bool) bool {
	var remote *pgconn.PgError
	return errors.As(err, &remote) && (remote.Code == "40P01" || remote.Code == "23505" && !locked)
}

// bytewise has text compared byte by byte, whatever the database's language is.
func bytewise(postgres bool) string {
	if postgres {
		return ` COLLATE "C"`
	}
	return ` COLLATE BINARY`
}

// shareRow ends a query whose row nobody may delete until the transaction ends. SQLite has one writer at a time.
func shareRow(postgres bool) string {
	if postgres {
		return " FOR KEY SHARE"
	}
	return ""
}

// claimRows ends a query for rows to be deleted: it locks them and leaves out those that others use just then.
func claimRows(postgres bool) string {
	if postgres {
		return " FOR UPDATE SKIP LOCKED"
	}
	return ""
}

// deleteSome deletes rows that fulfil a condition; the last argument is how many at most.
func deleteSome(postgres bool, table, where string) string {
	return `DELETE FROM ` + table + some(postgres, table, where)
}

// updateSome is deleteSome for a change after which the rows are others.
func updateSome(postgres bool, table, set, where string) string {
	return `UPDATE ` + table + ` SET ` + set + some(postgres, table, where)
}

func some(postgres bool, table, where string) string {
	if postgres {
		return ` WHERE ctid = ANY (ARRAY(SELECT ctid FROM ` + table + ` WHERE ` + where + ` LIMIT ?))`
	}
	return ` WHERE rowid IN (SELECT rowid FROM ` + table + ` WHERE ` + where + ` LIMIT ?)`
}

// foldLog moves what SQLite's write-ahead log holds into the database file, without waiting for anyone.
const foldLog = "PRAGMA wal_checkpoint(PASSIVE)"
