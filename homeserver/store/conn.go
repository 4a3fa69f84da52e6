package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

// conn is one database connection and the statements prepared on it. One goroutine uses it at a time.
type conn struct {
	bun      bun.Conn
	postgres bool
	prepared map[string]*sql.Stmt // SQLite only: PostgreSQL gets its arguments with the text
	numbered map[string]string    // PostgreSQL only: the text with $1 for ?
}

func openConn(ctx context.Context, db *bun.DB, postgres bool) (*conn, error) {
	c, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{bun: c, postgres: postgres, prepared: map[string]*sql.Stmt{}, numbered: map[string]string{}}, nil
}

func (c *conn) close() error {
	for _, s := range c.prepared {
		s.Close()
	}
	return c.bun.Close()
}

// inlined says whether an argument is one that only bun can write into the text, such as bun.In.
func inlined(args []any) bool {
	for _, a := range args {
		if _, ok := a.(schema.QueryAppender); ok {
			return true
		}
	}
	return false
}

func (c *conn) statement(text string) (*sql.Stmt, error) {
	if s := c.prepared[text]; s != nil {
		return s, nil
	}
	s, err := c.bun.Conn.PrepareContext(context.Background(), text)
	if err != nil {
		return nil, err
	}
	c.prepared[text] = s
	return s, nil
}

// number replaces each ? by $1, $2, … No statement of this package has a ? in a literal.
func (c *conn) number(text string) string {
	if n, ok := c.numbered[text]; ok {
		return n
	}
	var b strings.Builder
	count := 0
	for i := range len(text) {
		if text[i] != '?' {
			b.WriteByte(text[i])
			continue
		}
		count++
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(count))
	}
	c.numbered[text] = b.String()
	return b.String()
}

// exec runs a statement and returns how many rows it changed.
func (c *conn) exec(text string, args ...any) (int64, error) {
	if err := storable(args); err != nil {
		return 0, fmt.Errorf("%s: %w", brief(text), err)
	}
	var result sql.Result
	var err error
	ctx := context.Background()
	switch {
	case inlined(args):
		result, err = c.bun.ExecContext(ctx, text, args...)
	case c.postgres:
		result, err = c.bun.Conn.ExecContext(ctx, c.number(text), args...)
	default:
		var s *sql.Stmt
		if s, err = c.statement(text); err == nil {
			result, err = s.ExecContext(ctx, args...)
		}
	}
	if err != nil {
		return 0, fault(text, err)
	}
	return result.RowsAffected()
}

// query runs a query and calls scan for each row.
func (c *conn) query(scan func(*sql.Rows) error, text string, args ...any) error {
	if err := storable(args); err != nil {
		return fmt.Errorf("%s: %w", brief(text), err)
	}
	var rows *sql.Rows
	var err error
	ctx := context.Background()
	switch {
	case inlined(args):
		rows, err = c.bun.QueryContext(ctx, text, args...)
	case c.postgres:
		rows, err = c.bun.Conn.QueryContext(ctx, c.number(text), args...)
	default:
		var s *sql.Stmt
		if s, err = c.statement(text); err == nil {
			rows, err = s.QueryContext(ctx, args...)
		}
	}
	if err != nil {
		return fault(text, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("%s: %w", brief(text), err)
		}
	}
	if err := rows.Err(); err != nil {
		return fault(text, err)
	}
	return nil
}

// storable refuses text that PostgreSQL does not take, on both databases alike and before it spoils a transaction.
func storable(args []any) error {
	for _, a := range args {
		if s, ok := a.(string); ok && (strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s)) {
			return ErrText
		}
	}
	return nil
}

// fault says which statement failed, and whether it may succeed when it is tried again.
func fault(text string, err error) error {
	if passing(err) {
		return fmt.Errorf("%s: %w: %w", brief(text), ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", brief(text), err)
}

// errOneRow ends a query behind its first row.
var errOneRow = errors.New("one row is enough")

// row reads the first row of a query into dest and says whether there was one.
func (c *conn) row(dest []any, text string, args ...any) (bool, error) {
	err := c.query(func(rows *sql.Rows) error {
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		return errOneRow
	}, text, args...)
	if errors.Is(err, errOneRow) {
		return true, nil
	}
	return false, err
}

// brief is the beginning of a statement for an error: never its arguments.
func brief(text string) string {
	words := strings.Fields(text)
	return strings.Join(words[:min(len(words), 5)], " ")
}
