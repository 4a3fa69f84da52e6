package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/securecomm/securecomm/homeserver/stream"
)

// maxBatch is how many updates share one transaction at most.
const maxBatch = 128

// job is one queued update.
type job struct {
	ctx  context.Context
	fn   func(*Tx) error
	done chan struct{}
	err  error
	tx   *Tx // what it has written, if it has not failed
}

// errAgain says that nothing is wrong with a batch: another process wrote at the same time, or the connection was
// lost before the commit.
var errAgain = errors.New("the updates have to be run again")

// errUncertain says that the connection was lost during a commit, and that nobody could be asked what became of it.
var errUncertain = fmt.Errorf("%w: whether the last changes were committed is not known", ErrUnavailable)

// Update runs fn in a transaction and returns once the outcome is durable, or nothing of it is there.
// fn may be run more than once; it must neither wait nor act on anything but the Tx. After a nil
// answer everything it wrote survives a crash. Only if PostgreSQL goes away during the commit, and does not come back within
// seconds, may an update that failed with ErrUnavailable have been carried out.
func (db *DB) Update(ctx context.Context, fn func(*Tx) error) error {
	wait, err := db.Queue(ctx, fn)
	if err != nil {
		return err
	}
	return wait()
}

// CheckWrite is an Update that shows whether the database can be written to. One that writes nothing does not: it
// succeeds on a full disk.
func (db *DB) CheckWrite(ctx context.Context, write func(*Tx) error) error {
	err := db.Update(ctx, write)
	db.Note(faultWriting, err)
	return err
}

// Queue is Update in two steps: it returns as soon as fn has its place in the order of updates; the
// function returned waits for the outcome.
func (db *DB) Queue(ctx context.Context, fn func(*Tx) error) (wait func() error, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	j := &job{ctx: ctx, fn: fn, done: make(chan struct{})}
	select {
	case <-db.stop:
		return nil, ErrClosed
	default:
	}
	select {
	case db.jobs <- j:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-db.stop:
		return nil, ErrClosed
	}
	return func() error {
		select {
		case <-j.done:
			return j.err
		case <-db.gone:
			select {
			case <-j.done:
				return j.err
			default:
				return ErrClosed
			}
		}
	}, nil
}

// write is the writer: the only goroutine that uses db.writer.
func (db *DB) write() {
	defer db.done.Done()
	defer close(db.gone)
	batch := make([]*job, 0, maxBatch)
	for {
		batch = batch[:0]
		select {
		case j := <-db.jobs:
			batch = append(batch, j)
		case <-db.stop:
			select {
			case j := <-db.jobs:
				batch = append(batch, j)
			default:
				return
			}
		}
	fill:
		for len(batch) < maxBatch {
			select {
			case j := <-db.jobs:
				batch = append(batch, j)
			default:
				break fill
			}
		}
		db.runBatch(batch)
		if db.foldNow.Swap(false) {
			db.folded(db.writer.query(func(*sql.Rows) error { return nil }, foldLog))
		}
	}
}

// runBatch runs updates in one transaction. Should that fail as a whole, each is tried alone, so that
// only the one at fault fails.
func (db *DB) runBatch(batch []*job) {
	err := db.transact(batch)
	if errors.Is(err, errAgain) {
		err = db.transact(batch) // which locks the counter first
	}
	if err != nil && len(batch) > 1 && !errors.Is(err, errUncertain) {
		db.log.Warn("a batch of updates failed; each is tried alone", "updates", len(batch), "err", err)
		for i := range batch {
			db.runBatch(batch[i : i+1])
		}
		return
	}
	for _, j := range batch {
		if err != nil && j.err == nil {
			j.err = err
		}
		if errors.Is(j.err, ErrUnavailable) {
			db.Note(faultWriting, j.err)
		}
		close(j.done)
	}
}

// transact runs a batch. An error of the whole batch is returned, one of a single update set in it.
func (db *DB) transact(batch []*job) error {
	if _, err := db.writer.exec(db.begin.write); err != nil {
		db.writer = db.reopenWriter(db.writer)
		if _, err := db.writer.exec(db.begin.write); err != nil {
			return fmt.Errorf("begin a transaction: %w: %w", ErrUnavailable, err)
		}
	}
	var err error
	locked := db.shared
	if locked {
		before := db.last
		_, err = db.writer.row([]any{&db.last}, db.begin.lock)
		if db.shared = db.last != before; db.shared && err == nil {
			// It may be one that has started since: positions from there on are of its epoch.
			var list []stream.Epoch
			if list, err = readEpochs(db.writer, db.Hub.Epochs()); err == nil {
				db.Hub.SetEpochs(list)
			}
		}
	}
	upto := db.last
	var changes []stream.Change
	for _, j := range batch {
		if err != nil {
			break
		}
		if err = db.runJob(j, upto); err == nil && j.tx != nil {
			upto = j.tx.last
			changes = append(changes, j.tx.changes...)
		}
		if j.err != nil && disturbed(j.err, locked) {
			err = errAgain
		}
	}
	var name string
	if err == nil && len(changes) > 0 {
		var moved bool
		if moved, err = db.writer.row([]any{&name}, db.begin.move, int64(upto), int64(db.last)); err == nil && !moved {
			err = errAgain
		}
	} else if err == nil && db.begin.name != "" {
		_, err = db.writer.row([]any{&name}, db.begin.name)
	}
	if err == nil {
		if _, err = db.writer.exec("COMMIT"); err != nil && name != "" {
			err = db.outcome(name, err)
		}
	}
	if err != nil {
		db.writer.exec("ROLLBACK")
		db.shared = true // whatever has become of it, the next one looks
		return fmt.Errorf("commit: %w", err)
	}
	db.last = upto
	db.commits.Add(1)
	for _, j := range batch {
		if j.tx != nil {
			db.updates.Add(1)
			for _, f := range j.tx.after {
				f()
			}
		}
	}
	if len(changes) > 0 {
		if db.faults.any.Load() {
			db.Note(faultWriting, nil)
		}
		db.Hub.Publish(upto, changes)
	}
	return nil
}

// How often, and at what intervals, PostgreSQL is asked for the outcome of a commit.
const (
	outcomeTries = 50
	outcomePause = 100 * time.Millisecond
)

// outcome finds out what became of a transaction whose commit was not answered: nil if it was committed, errAgain if it
// was not. It must not run again before that is known, since it would then be carried out twice.
func (db *DB) outcome(name string, cause error) error {
	for range outcomeTries {
		db.writer = db.reopenWriter(db.writer)
		var status sql.NullString
		_, err := db.writer.row([]any{&status}, `SELECT pg_xact_status(?::xid8)`, name)
		switch {
		case err == nil && status.String == "committed":
			return nil
		case err == nil && status.String != "in progress":
			return fmt.Errorf("%w: %w", errAgain, cause)
		}
		select {
		case <-time.After(outcomePause):
		case <-db.stop:
			return fmt.Errorf("%w: %w", errUncertain, cause)
		}
	}
	return fmt.Errorf("%w: %w", errUncertain, cause)
}

// runJob runs one update under a savepoint; what it logs gets the positions after last. The error returned is one of the
// transaction, not of the update.
func (db *DB) runJob(j *job, last stream.Position) error {
	if j.err, j.tx = j.ctx.Err(), nil; j.err != nil {
		return nil
	}
	if _, err := db.writer.exec("SAVEPOINT update_"); err != nil {
		return err
	}
	tx := newTx(context.Background(), db, db.writer, true)
	tx.last = last
	func() {
		defer func() {
			if p := recover(); p != nil {
				j.err = fmt.Errorf("panic in an update: %v\n%s", p, debug.Stack())
			}
		}()
		j.err = j.fn(tx)
	}()
	if tx.failed != nil {
		j.err = tx.failed
	}
	if j.err == nil {
		j.tx = tx
	} else if _, err := db.writer.exec("ROLLBACK TO SAVEPOINT update_"); err != nil {
		return err
	}
	_, err := db.writer.exec("RELEASE SAVEPOINT update_")
	return err
}

func (db *DB) reopenWriter(c *conn) *conn {
	c.close()
	fresh, err := openConn(context.Background(), db.pools[0], db.postgres)
	if err != nil {
		db.log.Error("cannot reopen the database for writing", "err", fault("connect", err))
		return c
	}
	return fresh
}

// pruneStep is how many rows Prune lets one update delete.
const pruneStep = 500

// Prune deletes rows that nobody needs any longer a few at a time, so that other updates come between: prune is called in
// updates of their own, with how many rows it may delete, until it deletes fewer.
func (db *DB) Prune(ctx context.Context, prune func(tx *Tx, limit int) (int64, error)) error {
	for n := int64(pruneStep); n >= pruneStep; {
		err := db.Update(ctx, func(tx *Tx) (err error) {
			n, err = prune(tx, pruneStep)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// numberBlock is how many numbers a process reserves at once; what it does not use is lost.
const numberBlock = 4096

// NextNumber hands out a number that no row of this database has: for events, rooms, states and state
// keys, whose numbers have to be known before they are written. It must not be called inside Update.
func (db *DB) NextNumber(ctx context.Context) (int64, error) {
	db.numbers.mu.Lock()
	defer db.numbers.mu.Unlock()
	if db.numbers.next == db.numbers.end {
		var end int64
		err := db.Update(ctx, func(tx *Tx) error {
			_, err := tx.row([]any{&end}, `UPDATE counters SET value = value + ? WHERE name = 'number' RETURNING value`, int64(numberBlock))
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("reserve numbers: %w", err)
		}
		db.numbers.next, db.numbers.end = end-numberBlock, end
	}
	db.numbers.next++
	return db.numbers.next, nil
}
