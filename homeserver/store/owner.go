package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/securecomm/securecomm/homeserver/stream"
)

// ErrOwned says that another process has the database.
var ErrOwned = errors.New("another process uses the database")

// owner is how a process has a database for itself. It holds a lock of PostgreSQL for as long as its connection lives.
// The zero value belongs to who has not asked for that.
type owner struct {
	conn *conn         // nil: lost; used by Open, then by keepOwner only
	gone chan struct{} // closed once the database is no longer what this process knows
}

const (
	// ownerLock is the number of the lock.
	ownerLock = 7305502
	// ownTries is how often, at intervals of ownPause, a start asks for the database: the one before may be ending.
	ownTries, ownPause = 30, 100 * time.Millisecond
	// keepEvery is how often it is looked whether the lock is still held.
	keepEvery = time.Second
	// keepPatience is how long PostgreSQL may take to answer.
	keepPatience = 10 * time.Second
)

// own makes sure that no other process uses the database, as long as this one does. Error: ErrOwned.
func (db *DB) own(ctx context.Context) error {
	db.owner.gone = make(chan struct{})
	for try := range ownTries {
		if try > 0 {
			select {
			case <-time.After(ownPause):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := db.lockOwner(ctx); !errors.Is(err, ErrOwned) {
			db.Owned.Store(err == nil)
			return err
		}
	}
	return ErrOwned
}

// disown gives the lock up, if it is held.
func (db *DB) disown() {
	if db.owner.conn != nil {
		db.owner.conn.drop()
		db.owner.conn = nil
	}
	db.Owned.Store(false)
}

// lockOwner takes the lock on a connection of its own.
func (db *DB) lockOwner(ctx context.Context) error {
	c, err := openConn(ctx, db.pools[0], true)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	var taken bool
	// Without a sign of life, PostgreSQL gives the lock of a machine that has gone to others after half a minute.
	_, err = c.exec(`SET tcp_keepalives_idle = 10`)
	if err == nil {
		_, err = c.exec(`SET tcp_keepalives_interval = 5`)
	}
	if err == nil {
		_, err = c.exec(`SET tcp_keepalives_count = 4`)
	}
	if err == nil {
		_, err = c.row([]any{&taken}, `SELECT pg_try_advisory_lock(?)`, int64(ownerLock))
	}
	if err == nil && !taken {
		err = ErrOwned
	}
	if err != nil {
		c.close()
		return err
	}
	db.owner.conn = c
	return nil
}

// keepOwner looks whether the lock is still held, and takes it again once it is not.
func (db *DB) keepOwner() {
	defer db.done.Done()
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-db.stop:
			db.disown()
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), keepPatience)
		if c := db.owner.conn; c != nil {
			if _, err := c.bun.ExecContext(ctx, `SELECT 1`); err != nil {
				db.disown()
				db.log.Error("the lock on the database is lost: nothing is served until it is there again", "err", err)
			}
		} else {
			err := db.lockOwner(ctx)
			db.Taken.Store(errors.Is(err, ErrOwned))
			if err == nil && db.stale() {
				cancel()
				return
			}
		}
		cancel()
	}
}

// stale says whether another process has begun since this one, or the database has forgotten something, which ends this
// one. The lock has just been taken again, and is
// only held once it is known that none has.
func (db *DB) stale() bool {
	var first, last stream.Position
	_, err := db.owner.conn.row([]any{&first, &last}, `SELECT (SELECT max(first) FROM epochs), (SELECT value FROM counters WHERE name = 'log')`)
	switch {
	case err != nil:
		db.disown()
	case first != db.epoch.First, last < db.Hub.Current():
		// Where the log is shorter than it was, the database was put back to an earlier state: positions would come again.
		db.log.Error("the database is not as this process left it: another one has used it meanwhile, or it has lost what was written last")
		db.disown()
		close(db.owner.gone)
		return true
	default:
		db.Owned.Store(true)
		db.log.Info("the lock on the database is there again")
	}
	return false
}

// Disowned is closed once another process has used the database since this one began, or it has lost what this one wrote:
// what this one remembers is stale.
// It is nil without Options.Alone, and with SQLite.
func (db *DB) Disowned() <-chan struct{} { return db.owner.gone }
