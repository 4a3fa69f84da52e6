package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// checkPatience is how long a database may take to answer Check.
const checkPatience = 10 * time.Second

// Check says what keeps a database from being opened, if anything, and changes nothing. One that is not there yet is made
// by Open.
func Check(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	if isPostgres(address) {
		pool, err := openPostgres(address, 1)
		if err != nil {
			return err
		}
		defer pool.Close()
		c, err := openConn(ctx, pool, true)
		if err != nil {
			return hinted(err, 0)
		}
		defer c.close()
		return checkEncoding(c)
	}
	if info, err := os.Stat(address); errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil
	}
	pool, err := openSQLite(address, true, 1)
	if err != nil {
		return err
	}
	defer pool.Close()
	var steps int
	if err := pool.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master`).Scan(&steps); err != nil {
		return fmt.Errorf("%s: %w", address, err)
	}
	return nil
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
