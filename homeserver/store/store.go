package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"

	"github.com/securecomm/securecomm/homeserver/stream"
	"github.com/securecomm/securecomm/migrations"
)

// Options say where the database is.
type Options struct {
	// URL is "postgres://…", or the path of an SQLite file.
	URL string
	// Readers is how many connections serve View; 0 for a default.
	Readers int
	// Alone has Open fail with ErrOwned while another process has opened a database of PostgreSQL in the same way, since
	// each would hear nothing of what the other writes. Files of SQLite are locked by their opener.
	Alone bool
	Log   *slog.Logger
}

// DB is the open database. All methods may be called concurrently.
type DB struct {
	// Hub tells of every committed change.
	Hub *stream.Hub
	// Owned says whether this process has the database for itself, if Options.Alone asks for that; else it is set.
	Owned atomic.Bool
	// Taken says whether, last time it was asked for, another process had it.
	Taken atomic.Bool

	log      *slog.Logger
	postgres bool
	file     string // of SQLite, once it is open
	begin    statements
	pools    []*bun.DB
	writer   *conn
	readers  *pool
	jobs     chan *job
	stop     chan struct{} // closed by Close
	gone     chan struct{} // closed when the writer has ended
	done     sync.WaitGroup
	closed   atomic.Bool
	last     stream.Position // of the log, as far as this process knows; the writer's
	epoch    stream.Epoch    // that this process began
	owner    owner
	faults   faults
	commits  atomic.Int64
	updates  atomic.Int64 // that were carried out
	queued   atomic.Int64 // bytes of data units for other servers
	shared   bool         // another process has written to the log of late; the writer's
	foldNow  atomic.Bool  // the writer is to fold the write-ahead log
	purges   atomic.Int64 // how many purged rooms this process has forgotten the events of

	numbers struct {
		mu        sync.Mutex
		next, end int64
	}
	cache caches
}

var (
	// ErrClosed is returned by calls after Close.
	ErrClosed = errors.New("the database is closed")
	// ErrUnavailable says that the database can't be reached, or has no room or no time: the same call may succeed later.
	ErrUnavailable = errors.New("the database or a disk is not available")
	// ErrDamaged is an ErrUnavailable that hardly passes by itself: what is in the database's file is not as it was written.
	ErrDamaged = fmt.Errorf("%w: it is damaged", ErrUnavailable)
	// ErrText refuses text with a NUL character, or that is not UTF-8: no identifier of ours has such a thing. Names of
	// pieces of state are the exception (see StateKey): they may hold any character.
	ErrText = errors.New("the text has a NUL character or is not UTF-8")
)

// Open opens the database, brings its schema up to date and starts the writer.
func Open(ctx context.Context, o Options) (*DB, error) {
	db := &DB{log: o.Log, postgres: isPostgres(o.URL), jobs: make(chan *job, 1024), stop: make(chan struct{}), gone: make(chan struct{})}
	if db.log == nil {
		db.log = slog.Default()
	}
	db.begin = begins(db.postgres)
	db.Owned.Store(!o.Alone || !db.postgres)
	readers := o.Readers
	if readers <= 0 {
		readers = defaultReaders(db.postgres)
	}
	var purges int64
	err := db.open(ctx, o, readers)
	if err == nil {
		err = db.startEpoch()
	}
	if err == nil {
		_, err = db.writer.row([]any{&purges}, `SELECT value FROM counters WHERE name = 'purges'`)
	}
	if err != nil {
		db.disown()
		db.closePools()
		return nil, err
	}
	db.purges.Store(purges)
	db.cache.init()
	db.done.Add(1)
	go db.write()
	if db.owner.conn != nil {
		db.done.Add(1)
		go db.keepOwner()
	}
	if !db.postgres {
		db.done.Add(1)
		go db.checkpoint(o.URL)
	}
	return db, nil
}

func (db *DB) open(ctx context.Context, o Options, readers int) error {
	address := o.URL
	var write, read *bun.DB
	var err error
	if db.postgres {
		if write, err = openPostgres(address, readers+3); err != nil {
			return err
		}
		read = write
		db.pools = []*bun.DB{write}
		if err := db.enter(ctx, o.Alone); err != nil {
			return fmt.Errorf("open the database: %w", hinted(err, readers))
		}
	} else {
		if err := checkLog(address); err != nil {
			return fmt.Errorf("open the database: %w", err)
		}
		if err := makePrivate(address); err != nil {
			return err
		}
		// The writer, and the connection that folds the log into the file.
		if write, err = openSQLite(address, false, 2); err != nil {
			return err
		}
		db.pools, db.file = []*bun.DB{write}, address
		if err := bindLog(ctx, write, address); err != nil {
			return fmt.Errorf("open the database: %w", err)
		}
		// The readers, and the connection of CheckRead.
		if read, err = openSQLite(address, true, readers+1); err != nil {
			return err
		}
		db.pools = append(db.pools, read)
	}
	if err := migrations.Apply(ctx, write); err != nil {
		return fmt.Errorf("open the database: %w", hinted(err, readers))
	}
	if db.writer, err = openConn(ctx, write, db.postgres); err != nil {
		return fmt.Errorf("open the database for writing: %w", hinted(err, readers))
	}
	db.readers = newPool(readers)
	for range readers {
		c, err := openConn(ctx, read, db.postgres)
		if err != nil {
			return fmt.Errorf("open the database for reading: %w", hinted(err, readers))
		}
		db.readers.idle = append(db.readers.idle, c)
	}
	return nil
}

// enter sees, before anything in a database of PostgreSQL is changed, whether this process may use it.
func (db *DB) enter(ctx context.Context, alone bool) error {
	c, err := openConn(ctx, db.pools[0], true)
	if err != nil {
		return err
	}
	defer c.close()
	if err := checkEncoding(c); err != nil || !alone {
		return err
	}
	return db.own(ctx)
}

// Commits is how many transactions have been committed.
func (db *DB) Commits() int64 { return db.commits.Load() }

// Queued counts the bytes that data units were given in the outbox since the start.
func (db *DB) Queued() int64 { return db.queued.Load() }

// Updates is how many updates have been carried out in them.
func (db *DB) Updates() int64 { return db.updates.Load() }

// Waiting is how many updates wait for a transaction.
func (db *DB) Waiting() int { return len(db.jobs) }

// Close lets queued updates finish and closes all connections.
func (db *DB) Close() error {
	if db.closed.Swap(true) {
		return nil
	}
	close(db.stop)
	db.done.Wait()
	for range db.readers.size {
		c, _ := db.readers.take(context.Background(), nil)
		c.close()
	}
	db.writer.close()
	return db.closePools()
}

func (db *DB) closePools() error {
	var errs []error
	for _, p := range db.pools {
		errs = append(errs, p.Close())
	}
	if db.file != "" {
		errs = append(errs, unbindLog(db.file))
	}
	return errors.Join(errs...)
}

// View runs fn on a snapshot of the database. Writing in it fails.
func (db *DB) View(ctx context.Context, fn func(*Tx) error) error {
	tx := newTx(ctx, db, nil, false)
	err := tx.open()
	if err == nil {
		defer tx.release()
		err = fn(tx)
	}
	db.Note(faultReading, err)
	return err
}

// Glance is View for readers who find most of what they want in memory: the snapshot is taken by the first query, if
// there is one at all. What such a reader has found before may be older.
func (db *DB) Glance(ctx context.Context, fn func(*Tx) error) error {
	tx := newTx(ctx, db, nil, false)
	defer tx.release()
	err := fn(tx)
	if err != nil || tx.conn != nil {
		db.Note(faultReading, err)
	}
	return err
}

// open takes a connection and a snapshot.
func (tx *Tx) open() error {
	db := tx.db
	c, err := db.readers.take(tx.ctx, db.stop)
	if err != nil {
		return err
	}
	if _, err := c.exec(db.begin.read); err != nil {
		c = db.reopen(c)
		if _, err := c.exec(db.begin.read); err != nil {
			db.readers.give(tx.ctx, c)
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	tx.conn = c
	return nil
}

// Rest gives a reader's connection back to the others until the next query, which then sees a newer snapshot. It is for
// who has long to think and reads what does not change. A writer keeps its own.
func (tx *Tx) Rest() {
	if !tx.writable {
		tx.release()
	}
}

func (tx *Tx) release() {
	if tx.conn != nil {
		tx.conn.exec("ROLLBACK")
		tx.db.readers.give(tx.ctx, tx.conn)
		tx.conn = nil
	}
}

// reopen replaces a connection that the database server has dropped.
func (db *DB) reopen(c *conn) *conn {
	c.close()
	fresh, err := openConn(context.Background(), db.pools[len(db.pools)-1], db.postgres)
	if err != nil {
		db.log.Error("cannot reopen a database connection", "err", fault("connect", err))
		return c
	}
	return fresh
}

// folded notes how the folding of the write-ahead log went.
func (db *DB) folded(err error) {
	if err != nil {
		err = fault(foldLog, err)
		db.log.Warn("cannot fold the write-ahead log into the database", "err", err)
	}
	db.Note(faultFolding, err)
}

// How the write-ahead log of SQLite is kept short.
const (
	lookAtLog = 500 * time.Millisecond
	longLog   = 8 << 20 // bytes
)

// checkpoint folds SQLite's write-ahead log into the database file while nobody waits for it. When the log has
// grown long all the same, the writer is asked to fold the rest between two batches: only then can the log
// begin again at its start.
func (db *DB) checkpoint(path string) {
	defer db.done.Done()
	tick := time.NewTicker(lookAtLog)
	defer tick.Stop()
	var last stream.Position
	for {
		select {
		case <-db.stop:
			return
		case <-tick.C:
		}
		now := db.Hub.Current()
		if now == last {
			continue
		}
		last = now
		_, err := db.pools[0].ExecContext(context.Background(), foldLog)
		db.folded(err)
		if info, err := os.Stat(path + "-wal"); err == nil && info.Size() > longLog {
			db.foldNow.Store(true)
		}
	}
}
