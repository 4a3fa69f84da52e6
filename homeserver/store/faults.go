package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// What the known faults of the database are faults of.
const (
	faultWriting = "writing to the database"
	faultReading = "reading from the database"
	faultFolding = "folding the write-ahead log into the database"
	// faultDamage is not ended by what other calls read, which says nothing of the page that is damaged: see CheckDamage.
	faultDamage = "the database's file, which is damaged: stop the server and restore a backup"
)

// faults are those of the database and of disks that have begun and not ended. Each is told when it begins and when it
// ends: whatever fails between is only counted.
type faults struct {
	any  atomic.Bool
	mu   sync.Mutex
	open map[string]*openFault
}

type openFault struct {
	since time.Time
	count int
	met   []*damage
}

// Note notes how something went that may fail for a known fault (ErrUnavailable) of the database or a disk.
func (db *DB) Note(what string, err error) {
	failed := errors.Is(err, ErrUnavailable)
	if !failed && (err != nil || !db.faults.any.Load()) {
		return
	}
	if errors.Is(err, ErrDamaged) {
		what = faultDamage
	}
	f := &db.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.open[what]
	if known != nil {
		known.meet(err)
	}
	switch {
	case failed && known != nil:
		known.count++
	case failed:
		if f.open == nil {
			f.open = map[string]*openFault{}
		}
		begun := &openFault{since: time.Now(), count: 1}
		begun.meet(err)
		f.open[what] = begun
		f.any.Store(true)
		db.log.Error("a fault of the database or a disk has begun", "in", what, "cause", err.Error())
	case known != nil:
		delete(f.open, what)
		f.any.Store(len(f.open) > 0)
		db.log.Info("a fault of the database or a disk has ended", "in", what, "after", time.Since(known.since).Round(time.Millisecond), "failures", known.count)
	}
}

// Damaged says whether a part of the database was found damaged, and not mended since. See CheckDamage.
func (db *DB) Damaged() bool {
	if !db.faults.any.Load() {
		return false
	}
	db.faults.mu.Lock()
	defer db.faults.mu.Unlock()
	return db.faults.open[faultDamage] != nil
}

// CheckRead shows whether the database can be read, on a connection that no View waits for.
func (db *DB) CheckRead(ctx context.Context) error {
	c, err := openConn(ctx, db.pools[len(db.pools)-1], db.postgres)
	if err != nil {
		err = fault("connect", err)
	} else {
		defer c.close()
		var last int64
		_, err = c.row([]any{&last}, `SELECT value FROM counters WHERE name = 'log'`)
	}
	db.Note(faultReading, err)
	return err
}

// Disk marks an error of a file as a known fault of its disk, if it is one: full, read-only or broken.
func Disk(err error) error {
	for _, known := range []error{
		syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.EROFS, syscall.EIO, os.ErrPermission,
	} {
		if errors.Is(err, known) {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	return err
}

// Quiet leaves out of a log what Note tells in two lines: each of the things that a fault makes fail.
func Quiet(log *slog.Logger) *slog.Logger { return slog.New(quiet{log.Handler()}) }
