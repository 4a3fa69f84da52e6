package media

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/securecomm/securecomm/homeserver/store"
)

const (
	defaultRetention = 30 * 24 * time.Hour
	pruneInterval    = 6 * time.Hour
	// youngFile is the age up to which a file may belong to an upload that is just being described.
	youngFile = time.Hour
)

// Run prunes now and then, until the context ends.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(pruneInterval)
	defer tick.Stop()
	for {
		if err := s.Prune(ctx); err != nil && ctx.Err() == nil {
			s.Log.Error("cannot prune media", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Prune forgets cached media that nobody has used for long and uploads that never came, and removes the
// files that nothing refers to.
func (s *Service) Prune(ctx context.Context) error {
	now := time.Now()
	retention := s.Retention
	if retention == 0 {
		retention = defaultRetention
	}
	err := s.Store.Prune(ctx, func(tx *store.Tx, limit int) (int64, error) {
		return tx.Media.Prune(now.Add(-retention), now.Add(-pendingLife), limit)
	})
	if err == nil {
		_, err = s.measure(ctx)
	}
	if err == nil {
		err = s.evict(ctx)
	}
	if err == nil {
		err = s.pruneThumbnails(ctx)
	}
	if err != nil {
		return fmt.Errorf("prune media: %w", err)
	}
	return s.sweep(ctx, now.Add(-youngFile))
}

// orphanStep is how many images' thumbnails one update removes.
const orphanStep = 200

func (s *Service) pruneThumbnails(ctx context.Context) error {
	for {
		var gone []string
		err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
			gone, err = tx.Media.Orphans(orphanStep)
			return err
		})
		if err == nil && len(gone) > 0 {
			err = s.Store.Update(ctx, func(tx *store.Tx) error { return tx.Media.DeleteThumbnails(gone) })
		}
		if err != nil || len(gone) < orphanStep {
			return err
		}
	}
}

// sweep removes files that were last written before a time and that nothing refers to, a folder at a time.
func (s *Service) sweep(ctx context.Context, before time.Time) error {
	var old []string
	flush := func() error {
		used := map[string]bool{}
		err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
			used, err = tx.Media.InUse(old)
			return err
		})
		if err != nil {
			return err
		}
		for _, hash := range old {
			if used[hash] {
				continue
			}
			if err := s.removeOld(hash, before); err != nil {
				return err
			}
		}
		old = nil
		return nil
	}
	err := filepath.WalkDir(s.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if d.IsDir() {
			return ctx.Err()
		}
		info, err := d.Info()
		if err != nil || !info.ModTime().Before(before) {
			return nil // young, or gone meanwhile
		}
		if filepath.Base(filepath.Dir(path)) == temporary {
			return os.Remove(path) // left by a crash
		}
		if len(d.Name()) == 64 && s.path(d.Name()) == filepath.Clean(path) {
			old = append(old, d.Name())
		}
		if len(old) >= 500 {
			return flush()
		}
		return nil
	})
	if err == nil && len(old) > 0 {
		err = flush()
	}
	if err != nil {
		return fmt.Errorf("remove media files: %w", err)
	}
	return nil
}

// removeOld removes a file unless it was written again meanwhile.
func (s *Service) removeOld(hash string, before time.Time) error {
	s.placing.Lock()
	defer s.placing.Unlock()
	info, err := os.Stat(s.path(hash))
	if err != nil || !info.ModTime().Before(before) {
		return err
	}
	return os.Remove(s.path(hash))
}
