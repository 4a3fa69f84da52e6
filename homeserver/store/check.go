package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/migrations"
)

// checkPatience is how long a database may take to answer Check.
const checkPatience = 10 * time.Second

// Check says what keeps a database from being opened, if anything, and reads facts about it. It changes nothing: a database
// that is not there yet is made by Open, and has no facts.
func Check(ctx context.Context, address string, facts ...string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	postgres := isPostgres(address)
	var pool *bun.DB
	var err error
	if postgres {
		pool, err = openPostgres(address, 1)
	} else {
		if info, err := os.Stat(address); errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
			return nil, nil
		}
		if err := checkLog(address); err != nil {
			return nil, err
		}
		pool, err = lookAtSQLite(address)
	}
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	c, err := openConn(ctx, pool, postgres)
	if err == nil && postgres {
		err = checkEncoding(c)
	}
	if err != nil {
		return nil, hinted(err, 0)
	}
	if err := c.close(); err != nil { // it is the pool's only one
		return nil, err
	}
	return readFacts(ctx, pool, facts)
}

func readFacts(ctx context.Context, pool *bun.DB, names []string) (map[string]string, error) {
	if made, err := migrations.Check(ctx, pool); err != nil || !made {
		return nil, err
	}
	out := map[string]string{}
	rows, err := pool.QueryContext(ctx, `SELECT name, value FROM facts WHERE name IN (?)`, bun.In(names))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return nil, err
		}
		out[name] = value
	}
	return out, rows.Err()
}

// checkEncoding refuses a database of PostgreSQL that cannot hold every text.
func checkEncoding(c *conn) error {
	var encoding string
	if _, err := c.row([]any{&encoding}, `SHOW server_encoding`); err != nil {
		return err
	}
	if encoding != "UTF8" {
		return fmt.Errorf("the database has the encoding %s, which does not hold every text: make one with ENCODING 'UTF8' TEMPLATE template0", encoding)
	}
	return nil
}

// hinted adds to an error of a connection to PostgreSQL what to do about it. readers is how many of them are wanted.
func hinted(err error, readers int) error {
	var remote *pgconn.PgError
	if !errors.As(err, &remote) {
		return err
	}
	switch remote.Code {
	case "53300", "53400": // too many connections, of all or of one user or database
		return fmt.Errorf("PostgreSQL has too few connections, and this server wants %d: raise its max_connections, or lower database.readers: %w", readers+3, err)
	case "28P01", "28000":
		return fmt.Errorf("PostgreSQL refuses the user or the password in database.url: %w", err)
	case "3D000":
		return fmt.Errorf("PostgreSQL has no database of the name in database.url: make it with CREATE DATABASE: %w", err)
	}
	return err
}
