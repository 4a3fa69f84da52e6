package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
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
	prepared map[string]*sql.Stmt          // SQLite only: PostgreSQL gets its arguments with the text
	numbered map[string]string             // PostgreSQL only: the text with $1 for ?
	seen     func(text string, args []any) // told of each query; nil but in tests
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

// drop closes the connection itself, which close would keep for another use.
func (c *conn) drop() {
	_ = c.bun.Raw(func(any) error { return driver.ErrBadConn })
	c.close()
}

// checkArgs refuses text that PostgreSQL does not take, on both databases alike and before it spoils a transaction. It
// says whether an argument is one that only bun can write into the text, such as bun.In.
func checkArgs(args []any) (inlined bool, err error) {
	for _, a := range args {
		switch a := a.(type) {
		case string:
			if strings.IndexByte(a, 0) >= 0 || !utf8.ValidString(a) {
				return false, ErrText
			}
		case schema.QueryAppender:
			inlined = true
		}
	}
	return inlined, nil
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
	inlined, err := checkArgs(args)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", brief(text), err)
	}
	var result sql.Result
	ctx := context.Background()
	switch {
	case inlined:
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
		return 0, fault(text, err, args...)
	}
	return result.RowsAffected()
}

// rows runs a query.
func (c *conn) rows(text string, args []any) (*sql.Rows, error) {
	if c.seen != nil {
		c.seen(text, args)
	}
	inlined, err := checkArgs(args)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", brief(text), err)
	}
	var rows *sql.Rows
	ctx := context.Background()
	switch {
	case inlined:
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
		return nil, fault(text, err, args...)
	}
	return rows, nil
}

// query runs a query and calls scan for each row.
func (c *conn) query(scan func(*sql.Rows) error, text string, args ...any) error {
	rows, err := c.rows(text, args)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("%s: %w", brief(text), err)
		}
	}
	if err := rows.Err(); err != nil {
		return fault(text, err, args...)
	}
	return nil
}

// fault says which statement failed, and whether it may succeed when it is tried again.
func fault(text string, err error, args ...any) error {
	if damaging(err) {
		return &damage{text, args, err}
	}
	if passing(err) {
		return fmt.Errorf("%s: %w: %w", brief(text), ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", brief(text), err)
}

// row reads the first row of a query into dest and says whether there was one.
func (c *conn) row(dest []any, text string, args ...any) (bool, error) {
	rows, err := c.rows(text, args)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	found := rows.Next()
	if found {
		err = rows.Scan(dest...)
	} else {
		err = rows.Err()
	}
	if err != nil {
		return false, fault(text, err, args...)
	}
	return found, nil
}

// brief is the beginning of a statement for an error: never its arguments.
func brief(text string) string {
	words := strings.Fields(text)
	return strings.Join(words[:min(len(words), 5)], " ")
}
