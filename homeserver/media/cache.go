package media

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/securecomm/securecomm/homeserver/store"
)

// evictStep is how many pieces of media are forgotten at a time to make room in the cache.
const evictStep = 100

// grown counts what has come into the cache and makes room if that is too much: whoever fills it waits for it.
func (s *Service) grown(ctx context.Context, bytes int64) {
	if s.cached.Add(bytes); s.CacheMax == 0 || s.cached.Load() <= s.CacheMax {
		return
	}
	if err := s.evict(context.WithoutCancel(ctx)); err != nil {
		s.Log.Error("cannot make room in the media cache", "err", err)
	}
}

// evict forgets what was not used for longest, until a tenth of the cache is free again.
func (s *Service) evict(ctx context.Context) error {
	s.evicting.Lock()
	defer s.evicting.Unlock()
	if s.CacheMax == 0 || s.cached.Load() <= s.CacheMax {
		return nil
	}
	if err := s.measure(ctx); err != nil {
		return err
	}
	for s.cached.Load() > s.CacheMax/10*9 {
		var list []store.MediaRow
		err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
			list, err = tx.Media.Oldest(evictStep)
			return err
		})
		if err != nil || len(list) == 0 {
			return err
		}
		left := s.cached.Load()
		for i := range list {
			if left -= list[i].Size; left <= s.CacheMax/10*9 {
				list = list[:i+1]
				break
			}
		}
		if err := s.forget(ctx, list); err != nil {
			return err
		}
	}
	return nil
}

// forget forgets pieces of cached media and removes their files and those of their thumbnails.
func (s *Service) forget(ctx context.Context, list []store.MediaRow) error {
	var hashes []string
	for _, m := range list {
		hashes = append(hashes, m.Hash)
	}
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		drawn, err := tx.Media.ThumbnailsOf(hashes[:len(list)])
		if err == nil {
			err = tx.Media.DeleteCached(list)
		}
		if err == nil {
			err = tx.Media.DeleteThumbnails(hashes[:len(list)])
		}
		hashes = append(hashes[:len(list)], drawn...)
		return err
	})
	if err != nil {
		return err
	}
	for _, m := range list {
		s.cached.Add(-m.Size)
	}
	for _, hash := range hashes {
		if err := s.removeUnused(ctx, hash); err != nil {
			return err
		}
	}
	return nil
}

// measure counts what is cached.
func (s *Service) measure(ctx context.Context) error {
	return s.Store.View(ctx, func(tx *store.Tx) error {
		n, err := tx.Media.CachedBytes()
		if err == nil {
			s.cached.Store(n)
		}
		return err
	})
}

// removeUnused removes a file, however young it is, unless something refers to it or is about to.
func (s *Service) removeUnused(ctx context.Context, hash string) error {
	s.placing.Lock()
	defer s.placing.Unlock()
	if s.describing[hash] > 0 {
		return nil
	}
	var used map[string]bool
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		used, err = tx.Media.InUse([]string{hash})
		return err
	})
	if err != nil || used[hash] {
		return err
	}
	if err := os.Remove(s.path(hash)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a media file: %w", err)
	}
	return nil
}

// described says that what write returned is described, or never will be.
func (s *Service) described(f file) {
	s.placing.Lock()
	defer s.placing.Unlock()
	if s.describing[f.hash]--; s.describing[f.hash] <= 0 {
		delete(s.describing, f.hash)
	}
}
