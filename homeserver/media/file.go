package media

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/securecomm/securecomm/homeserver/store"
)

// file is content on disk.
type file struct {
	hash string // SHA-256 in hexadecimal, its name
	size int64
}

const (
	dirMode    = 0o700
	temporary  = "tmp"
	copyBuffer = 64 << 10
)

func (s *Service) path(hash string) string { return filepath.Join(s.Dir, hash[:2], hash[2:4], hash) }

// Any says whether there is, or was, content in a media folder.
func Any(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.IsDir() && len(e.Name()) == 2 }), err
}

// write keeps at most limit bytes, unless the disk is nearly full. What it returned survives a crash. The file is put in its place even if it is there
// already, so that sweep sees that it was wanted just now. Without an error, call described once the file is described.
func (s *Service) write(r io.Reader, limit int64) (file, error) {
	f, err := s.writeFile(r, limit)
	return f, s.note(err, limit)
}

// note notes how it went to write files of so many bytes at most. What still fits does not end the fault for others.
func (s *Service) note(err error, limit int64) error {
	if err = store.Disk(err); err != nil || s.enough(s.KeepFree+limit) == nil {
		s.Store.Note("writing media files", err)
	}
	return err
}

// NearlyFull says whether nothing is taken since too little of the disk is left.
func (s *Service) NearlyFull() bool { return s.enough(s.KeepFree) != nil }

// CheckWrite says whether files can be written: it writes a page. That too little of the disk is left stays a fault until
// more is, but not one of the folder.
func (s *Service) CheckWrite(context.Context) error {
	err := os.MkdirAll(s.Dir, dirMode)
	name := filepath.Join(s.Dir, ".probe")
	if err == nil {
		err = os.WriteFile(name, make([]byte, 4<<10), 0o600)
	}
	if err == nil {
		err = os.Remove(name)
	}
	if err != nil {
		_ = os.Remove(name) // it may never have been there
		return s.note(err, 0)
	}
	_ = s.note(s.enough(s.KeepFree), max(s.MaxUpload, s.MaxRemote)) // others than media may go on
	return nil
}

// enough says whether so many bytes of the disk are left.
func (s *Service) enough(least int64) error {
	left, err := space(s.Dir)
	if err != nil {
		return fmt.Errorf("look how much room is left: %w", err)
	}
	if left < least {
		return fmt.Errorf("%w: %d bytes are left, and media leaves %d for the rest", syscall.ENOSPC, left, s.KeepFree)
	}
	return nil
}

// lookEvery is after how many bytes of a file it is looked again how much room is left: others arrive beside it.
const lookEvery = 1 << 20

// spare refuses to write on once the disk is nearly full.
type spare struct {
	s       *Service
	written int
}

func (r *spare) Write(b []byte) (int, error) {
	before := r.written / lookEvery
	if r.written += len(b); r.written/lookEvery == before {
		return len(b), nil
	}
	return len(b), r.s.enough(r.s.KeepFree)
}

func (s *Service) writeFile(r io.Reader, limit int64) (file, error) {
	tmp := filepath.Join(s.Dir, temporary)
	if err := os.MkdirAll(tmp, dirMode); err != nil {
		return file{}, fmt.Errorf("make the media folder: %w", err)
	}
	if err := s.enough(s.KeepFree); err != nil {
		return file{}, err
	}
	f, err := os.CreateTemp(tmp, "upload-") // of mode 0600
	if err != nil {
		return file{}, fmt.Errorf("keep media: %w", err)
	}
	defer func() {
		_ = f.Close()           // an error was seen before, or does not matter
		_ = os.Remove(f.Name()) // it is gone if all went well
	}()
	hash := sha256.New()
	size, err := io.CopyBuffer(io.MultiWriter(f, hash, &spare{s: s}), io.LimitReader(r, limit+1), make([]byte, copyBuffer))
	if err != nil {
		return file{}, fmt.Errorf("receive media: %w", err)
	}
	if size > limit {
		return file{}, ErrTooLarge
	}
	out := file{hex.EncodeToString(hash.Sum(nil)), size}
	path := s.path(out.hash)
	if err := errors.Join(f.Sync(), f.Close(), os.MkdirAll(filepath.Dir(path), dirMode), s.place(f.Name(), out.hash)); err != nil {
		return file{}, fmt.Errorf("keep media: %w", err)
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil {
			s.described(out)
			return file{}, fmt.Errorf("keep media: %w", err)
		}
		if dir == filepath.Clean(s.Dir) {
			return out, nil
		}
	}
}

// place puts a file in its place, where it stays until described is called.
func (s *Service) place(from, hash string) error {
	s.placing.Lock()
	defer s.placing.Unlock()
	if err := os.Rename(from, s.path(hash)); err != nil {
		return err
	}
	if s.describing == nil {
		s.describing = map[string]int{}
	}
	s.describing[hash]++
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// open opens content. It must be closed.
func (s *Service) open(hash string) (*os.File, error) {
	f, err := os.Open(s.path(hash))
	if errors.Is(err, fs.ErrNotExist) {
		s.Log.Error("a media file is missing", "file", hash)
		return nil, fmt.Errorf("%w: its file is missing", ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open media: %w", err)
	}
	return f, nil
}
