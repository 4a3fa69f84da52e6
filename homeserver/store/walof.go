package store

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/uptrace/bun"
)

// SQLite applies a write-ahead log to whatever file it lies beside. One that a killed process has left beside the file would
// spoil an older one that is put there, as from a backup. So each start gives the file a number, in the four bytes of its
// header that are the application's, and tells it in a third file for as long as there is a log.

// ErrOtherLog says that the write-ahead log beside a file of SQLite belongs to another state of that file.
var ErrOtherLog = errors.New("the database is not the one that the write-ahead log beside it belongs to")

const (
	logSuffix, indexSuffix = "-wal", "-shm"
	ofSuffix               = "-wal-of"
	// numberAt is where the header has the number, as "user version" (https://www.sqlite.org/fileformat2.html section 1.3).
	numberAt = 60
)

// checkLog refuses a file of SQLite beside the log of another one, before either is changed.
func checkLog(path string) error {
	if info, err := os.Stat(path + logSuffix); errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil
	} else if err != nil {
		return err
	}
	told, err := os.ReadFile(path + ofSuffix)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var number string
	if err == nil {
		number, err = fileNumber(path)
	}
	if err != nil || slices.Contains(strings.Fields(string(told)), number) {
		return err
	}
	return fmt.Errorf("%w: %s was most likely restored beside what a killed server had left there. Remove %s and %s, and start again; or if that log was restored together with the database, remove only %s",
		ErrOtherLog, path, path+logSuffix, path+indexSuffix, path+ofSuffix)
}

// fileNumber is the number in a file's header, "0" if nothing is in the file, or it is not there.
func fileNumber(path string) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return "0", nil
	} else if err != nil {
		return "", err
	}
	defer f.Close()
	var b [4]byte
	if _, err := f.ReadAt(b[:], numberAt); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strconv.FormatUint(uint64(binary.BigEndian.Uint32(b[:])), 10), nil
}

// bindLog gives the file a new number, and tells it. A process that is killed in between leaves both numbers told, of which
// the file has one.
func bindLog(ctx context.Context, db *bun.DB, path string) error {
	old, err := fileNumber(path)
	if err != nil {
		return err
	}
	var b [4]byte
	_, _ = rand.Read(b[:])                    // it never fails
	n := binary.BigEndian.Uint32(b[:])>>1 | 1 // SQLite reads it with a sign
	number := strconv.FormatUint(uint64(n), 10)
	if err := writeWhole(path+ofSuffix, old+" "+number+"\n"); err != nil {
		return err
	}
	for _, statement := range []string{"PRAGMA user_version = " + number, foldLog} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return fault(statement, err)
		}
	}
	if now, err := fileNumber(path); err != nil || now != number {
		return err // somebody reads an older state: the number is still in the log alone
	}
	return writeWhole(path+ofSuffix, number+"\n")
}

// unbindLog removes what bindLog has told, if SQLite has removed the log.
func unbindLog(path string) error {
	if _, err := os.Stat(path + logSuffix); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Remove(path + ofSuffix); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// writeWhole writes a file as a whole or not at all, also if the power fails.
func writeWhole(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
