// Package migrations holds the schema of both databases as numbered steps and applies those that are
// missing.
//
// A step is one SQL file for SQLite and PostgreSQL alike. It is applied in a transaction of its own and
// never changed once released. Each table that grows says in a comment what prunes it. Only the store
// calls this package; it knows nothing of what the tables mean.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
)

//go:embed sql/*.sql
var files embed.FS

// ErrNewer means that a newer program has already changed the database.
var ErrNewer = errors.New("the database was written by a newer version of securecomm: start that version, or restore a backup")

type step struct {
	number int
	name   string
	sql    string
}

// Apply brings the database up to date. Several processes may call it at once.
func Apply(ctx context.Context, db *bun.DB) error {
	steps, err := load()
	if err != nil {
		return err
	}
	return db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		if tx.Dialect().Name() == dialect.PG {
			if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(7305501)`); err != nil {
				return fmt.Errorf("lock the schema: %w", err)
			}
		}
		done, err := applied(ctx, tx)
		if err != nil {
			return err
		}
		if done > steps[len(steps)-1].number {
			return ErrNewer
		}
		for _, s := range steps {
			if s.number <= done {
				continue
			}
			if err := s.apply(ctx, tx); err != nil {
				return fmt.Errorf("schema step %s: %w", s.name, err)
			}
		}
		return nil
	})
}

// Check says whether there is a schema, and whether Apply would refuse it. It changes nothing.
func Check(ctx context.Context, db *bun.DB) (made bool, err error) {
	table := `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'schema_steps'`
	if db.Dialect().Name() == dialect.PG {
		table = `SELECT count(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'schema_steps'`
	}
	steps, err := load()
	if err != nil {
		return false, err
	}
	var tables, done int
	if err := db.QueryRowContext(ctx, table).Scan(&tables); err != nil || tables == 0 {
		return false, err
	}
	err = db.QueryRowContext(ctx, `SELECT coalesce(max(number), 0) FROM schema_steps`).Scan(&done)
	if err == nil && done > steps[len(steps)-1].number {
		err = ErrNewer
	}
	return done > 0, err
}

func applied(ctx context.Context, tx bun.Tx) (int, error) {
	const table = `CREATE TABLE IF NOT EXISTS schema_steps (number BIGINT PRIMARY KEY, name TEXT NOT NULL)`
	if _, err := tx.ExecContext(ctx, table); err != nil {
		return 0, fmt.Errorf("make the table of schema steps: %w", err)
	}
	var done sql.NullInt64
	if err := tx.QueryRowContext(ctx, `SELECT max(number) FROM schema_steps`).Scan(&done); err != nil {
		return 0, fmt.Errorf("read the table of schema steps: %w", err)
	}
	return int(done.Int64), nil
}

func (s step) apply(ctx context.Context, tx bun.Tx) error {
	for statement := range strings.SplitSeq(withoutComments(s.sql), ";") {
		statement = strings.TrimSpace(statement)
		if statement == "" {
			continue
		}
		if tx.Dialect().Name() == dialect.SQLite {
			if strings.HasSuffix(statement, "SET STATISTICS 0") {
				continue // it keeps none by itself
			}
			// Only this spelling makes the column the row's own number.
			statement = strings.ReplaceAll(statement, "BIGINT PRIMARY KEY", "INTEGER PRIMARY KEY")
			statement = strings.ReplaceAll(statement, `COLLATE "C"`, "COLLATE BINARY")
		}
		if _, err := tx.Tx.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%.60q: %w", statement, err)
		}
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO schema_steps (number, name) VALUES (?, ?)`, s.number, s.name)
	return err
}

func withoutComments(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		code, _, _ := strings.Cut(line, "--")
		b.WriteString(code)
		b.WriteByte('\n')
	}
	return b.String()
}

// load reads the embedded steps in order of their numbers, which begin their file names.
func load() ([]step, error) {
	names, err := fs.Glob(files, "sql/*.sql")
	if err != nil {
		return nil, err
	}
	var steps []step
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		base := strings.TrimSuffix(strings.TrimPrefix(name, "sql/"), ".sql")
		digits, _, _ := strings.Cut(base, "_")
		number, err := strconv.Atoi(digits)
		if err != nil {
			return nil, fmt.Errorf("schema step %q has no number", base)
		}
		steps = append(steps, step{number, base, string(text)})
	}
	slices.SortFunc(steps, func(a, b step) int { return a.number - b.number })
	return steps, nil
}
