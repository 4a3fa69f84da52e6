package media

import (
	"context"
	"errors"

	"github.com/securecomm/securecomm/homeserver/store"
)

// uploading is the body of an upload, which counts for its user from the first byte, or as what was announced, until it is
// described.
type uploading struct {
	s       *Service
	u       Upload
	left    int64 // of the quota, beside what is under way
	counted int64
	got     int64
}

// admit begins an upload, unless it is announced as larger than what is left of its user's quota.
func (s *Service) admit(ctx context.Context, u Upload) (*uploading, error) {
	b := &uploading{s: s, u: u}
	if s.UserQuota == 0 {
		return b, nil
	}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		used, err := tx.Stored.Bytes(u.User, store.StoredMedia)
		b.left = s.UserQuota - used
		return err
	})
	if err == nil {
		err = b.count(max(u.Size, 1))
	}
	if err != nil {
		b.end()
		return nil, err
	}
	return b, nil
}

// count has an upload count as so many bytes.
func (b *uploading) count(bytes int64) error {
	if b.s.UserQuota == 0 || bytes <= b.counted {
		return nil
	}
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	more := bytes - b.counted
	if b.s.arriving[b.u.User]+more > b.left {
		return ErrQuota
	}
	b.s.arriving[b.u.User] += more
	b.counted = bytes
	return nil
}

// Read reads on, as far as the quota goes.
func (b *uploading) Read(p []byte) (int, error) {
	n, err := b.u.Body.Read(p)
	b.got += int64(n)
	if over := b.count(b.got); over != nil {
		return 0, over
	}
	return n, err
}

func (b *uploading) end() {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	if b.s.arriving[b.u.User] -= b.counted; b.s.arriving[b.u.User] <= 0 {
		delete(b.s.arriving, b.u.User)
	}
}

// withinQuota refuses what its uploader has no room for, whoever else has counted meanwhile.
func (s *Service) withinQuota(tx *store.Tx, m store.MediaRow) error {
	if s.UserQuota == 0 || m.Uploader == "" {
		return nil
	}
	used, err := tx.Stored.Hold(m.Uploader, store.StoredMedia)
	return errors.Join(err, errIf(used+m.Size > s.UserQuota, ErrQuota))
}
