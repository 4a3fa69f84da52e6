package media

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/securecomm/securecomm/homeserver/load"
	"github.com/securecomm/securecomm/homeserver/store"
)

// The cache is what can be had again: media of other servers, images of previews, and thumbnails, also those of what was
// uploaded here. Each file counts for the user or the server that asked for it first.

// evictStep is how many files are forgotten at a time to make room in the cache.
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

// evict makes room until a tenth of the cache is free again: who has most of it loses what was not used for longest.
func (s *Service) evict(ctx context.Context) error {
	s.evicting.Lock()
	defer s.evicting.Unlock()
	if s.CacheMax == 0 || s.cached.Load() <= s.CacheMax {
		return nil
	}
	has, err := s.measure(ctx)
	if err != nil || s.cached.Load() <= s.CacheMax {
		return err
	}
	each := load.FairShare(has, int(s.CacheMax/10*9))
	for who, bytes := range has {
		if err := s.forgetOldest(ctx, who, int64(bytes-each)); err != nil {
			return err
		}
	}
	_, err = s.measure(ctx)
	return err
}

// forgetOldest forgets so many bytes of what is cached because of somebody.
func (s *Service) forgetOldest(ctx context.Context, who string, bytes int64) error {
	for bytes > 0 {
		var media []store.MediaRow
		var drawn []store.Thumbnail
		err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
			if media, err = tx.Media.Oldest(who, evictStep); err == nil {
				drawn, err = tx.Media.OldestThumbnails(who, evictStep)
			}
			return err
		})
		if err != nil {
			return err
		}
		m, d := 0, 0
		for bytes > 0 && m+d < min(evictStep, len(media)+len(drawn)) {
			if d == len(drawn) || m < len(media) && media[m].UsedAt <= drawn[d].CreatedAt {
				bytes -= media[m].Size
				m++
			} else {
				bytes -= drawn[d].Size
				d++
			}
		}
		if m+d == 0 {
			return nil
		}
		if err := s.forget(ctx, media[:m], drawn[:d]); err != nil {
			return err
		}
	}
	return nil
}

// forget forgets pieces of cached media with their thumbnails, and other thumbnails, and removes the files of all.
func (s *Service) forget(ctx context.Context, media []store.MediaRow, drawn []store.Thumbnail) error {
	var sources, hashes []string
	for _, m := range media {
		sources = append(sources, m.Hash)
	}
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.Media.DeleteDrawn(drawn); err != nil || len(media) == 0 {
			return err
		}
		of, err := tx.Media.ThumbnailsOf(sources)
		if err == nil {
			err = tx.Media.DeleteCached(media)
		}
		if err == nil {
			err = tx.Media.DeleteThumbnails(sources)
		}
		hashes = of
		return err
	})
	if err != nil {
		return err
	}
	for _, t := range drawn {
		hashes = append(hashes, t.Hash)
	}
	for _, hash := range append(hashes, sources...) {
		if err := s.removeUnused(ctx, hash); err != nil {
			return err
		}
	}
	return nil
}

// measure counts what is cached, by who asked for it.
func (s *Service) measure(ctx context.Context) (has map[string]int, err error) {
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		has, err = tx.Media.CachedBytes()
		return err
	})
	if err == nil {
		all := 0
		for _, bytes := range has {
			all += bytes
		}
		s.cached.Store(int64(all))
	}
	return has, err
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
