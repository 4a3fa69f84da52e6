package media

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/semaphore"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Domain errors.
var (
	ErrNotFound       = errors.New("there is no such media")
	ErrTooLarge       = errors.New("the content is too large")
	ErrRemoteTooLarge = errors.New("the content that the other server has is too large")
	ErrRemote         = errors.New("the media cannot be fetched from the other server")
	ErrNotYetUploaded = errors.New("the media has not been uploaded yet")
	ErrOverwrite      = errors.New("media cannot be overwritten")
	ErrNotYours       = errors.New("the media ID was made for another user")
	ErrTooManyPending = errors.New("too many media IDs wait for their upload")
	ErrQuota          = errors.New("you have uploaded as much as one user can on this server")
	ErrNoThumbnail    = errors.New("there are no thumbnails of this kind of content")
	ErrNoPreviews     = errors.New("this server makes no link previews")
	ErrBadAddress     = errors.New("not an address that can be previewed")
	ErrPreviewFailed  = errors.New("the address cannot be previewed")
	// ErrCrowded says that too much of one user or server is waited for, or that others with less need the place of what was under way.
	ErrCrowded = errors.New("too much media is asked for at a time")
)

// Limits of one user and one request.
const (
	maxPending  = 100 // media IDs that wait for their upload
	pendingLife = 24 * time.Hour
	maxName     = 255 // of a file, in bytes
	maxWait     = time.Minute
	// DefaultWait is how long to wait for an upload if nobody says anything else.
	DefaultWait = 20 * time.Second
)

// Remote fetches media of other servers.
type Remote interface {
	// Download fetches at most limit bytes. It returns ErrNotFound, ErrNotYetUploaded or
	// ErrRemoteTooLarge where one of these is the reason of a failure, also from the body.
	Download(ctx context.Context, server id.ServerName, mediaID string, limit int64) (*RemoteFile, error)
}

// RemoteFile is media of another server while it arrives. All but the body are the other server's words.
type RemoteFile struct {
	ContentType        string
	ContentDisposition string
	Body               io.ReadCloser
}

// Service keeps media. Its fields are set before its first use.
type Service struct {
	Server id.ServerName
	Store  *store.DB
	Dir    string // made when needed
	Log    *slog.Logger
	// Remote is nil if no media of other servers is fetched.
	Remote Remote
	// Web fetches pages for previews and has to refuse private addresses; nil turns previews off.
	Web *http.Client

	MaxUpload int64 // bytes
	MaxRemote int64 // bytes
	KeepFree  int64 // bytes of the disk that media leaves to others; what is under way may take some of them
	UserQuota int64 // bytes that one user can upload in all; 0: no bound
	CacheMax  int64 // bytes of what was fetched from elsewhere, and of thumbnails; 0: no bound
	MaxPixels int   // of images that thumbnails are made of; it bounds their memory, too
	// Retention is how long cached media is kept after its last use; 30 days if zero.
	Retention time.Duration
	// Unauthenticated lets strangers have what was uploaded to this server (Client-Server API, "Content repository":
	// the endpoints without access tokens, which the specification has frozen).
	Unauthenticated bool

	once      sync.Once
	fetches   jobs[store.MediaRow]
	drawings  jobs[store.Thumbnail]
	previews  jobs[*Preview]
	downloads places
	uploads   places
	memory    *semaphore.Weighted // bytes for the images that are being decoded
	pages     *otter.Cache[string, *Preview]

	placing    sync.Mutex     // held while a file is put in its place or removed
	describing map[string]int // files that are in their place and are about to be described, by hash; guarded by placing
	evicting   sync.Mutex     // held by who makes room in the cache
	cached     atomic.Int64   // bytes of what is cached, as far as this process knows

	mu       sync.Mutex
	waiting  map[string]chan struct{} // by media ID: closed once it is uploaded
	arriving map[id.UserID]int64      // bytes of a user's uploads that are under way
}

const (
	cachedPages = 1000
	pageLife    = time.Hour
)

func (s *Service) start() {
	s.once.Do(func() {
		s.fetches = jobs[store.MediaRow]{goesOn: true, places: places{most: 32, each: 8, host: 16, queue: 100, losable: true}}
		s.drawings = jobs[store.Thumbnail]{places: places{most: 2, each: 2, queue: 100}}
		s.previews = jobs[*Preview]{places: places{most: 16, each: 4, host: 8, queue: 30, losable: true}}
		s.downloads = places{most: downloadsInAll, each: downloadsEach, queue: downloadsInLine, losable: true}
		s.uploads = places{most: uploadsInAll, each: uploadsEach, queue: uploadsInLine, losable: true}
		s.memory = semaphore.NewWeighted(costPerPixel * int64(s.MaxPixels))
		s.pages = otter.Must(&otter.Options[string, *Preview]{
			MaximumSize: cachedPages, ExpiryCalculator: otter.ExpiryWriting[string, *Preview](pageLife),
		})
		s.waiting, s.arriving = map[string]chan struct{}{}, map[id.UserID]int64{}
	})
}

// Upload is what a client says of content that it uploads.
type Upload struct {
	User        id.UserID
	ContentType string
	Name        string
	Size        int64 // as announced; -1 if it was not
	Body        io.Reader
	// Cut ends a wait for more of the body, now and later. It is nil if that is not possible.
	Cut func()
}

// Save keeps uploaded content and returns its media ID.
func (s *Service) Save(ctx context.Context, u Upload) (mediaID string, err error) {
	err = s.receive(ctx, u, func(ctx context.Context, m store.MediaRow) error {
		mediaID, err = s.insert(ctx, m)
		return err
	})
	return mediaID, err
}

// receive keeps uploaded content and has it described, even if its user has gone: else nobody would be charged for it. What
// cannot be described is not kept.
func (s *Service) receive(ctx context.Context, u Upload, describe func(context.Context, store.MediaRow) error) error {
	s.start()
	if u.Size > s.MaxUpload {
		return ErrTooLarge
	}
	leave, err := s.enter(ctx, &u)
	if err != nil {
		return err
	}
	defer leave()
	b, err := s.admit(ctx, u)
	if err != nil {
		return err
	}
	defer b.end()
	f, err := s.write(b, s.MaxUpload)
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	err = describe(ctx, store.MediaRow{
		Hash: f.hash, Size: f.size, ContentType: cleanType(u.ContentType), Name: cleanName(u.Name), Uploader: u.User,
	})
	s.described(f)
	if err != nil {
		return errors.Join(err, s.removeUnused(ctx, f.hash))
	}
	return nil
}

// insert describes media of this server under a new name.
func (s *Service) insert(ctx context.Context, m store.MediaRow) (string, error) {
	m.Origin, m.ID, m.CreatedAt = s.Server, rand.Text(), time.Now().UnixMilli()
	m.UsedAt = m.CreatedAt
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		if err := s.withinQuota(tx, m); err != nil {
			return err
		}
		if ok, err := tx.Media.Insert(m); err != nil || !ok {
			return fmt.Errorf("describe new media: %w", errors.Join(err, errIf(!ok, ErrOverwrite)))
		}
		return nil
	})
	if err == nil && m.Cached {
		s.grown(ctx, m.Size)
	}
	return m.ID, err
}

func errIf(condition bool, err error) error {
	if condition {
		return err
	}
	return nil
}

// Reserve hands out a media ID for content that is to come within a day.
func (s *Service) Reserve(ctx context.Context, user id.UserID) (mediaID string, expires time.Time, err error) {
	now := time.Now()
	m := store.MediaRow{Origin: s.Server, ID: rand.Text(), Uploader: user, CreatedAt: now.UnixMilli(), UsedAt: now.UnixMilli()}
	err = s.Store.Update(ctx, func(tx *store.Tx) error {
		n, err := tx.Media.CountPending(user, now.Add(-pendingLife))
		if err != nil {
			return err
		}
		if n >= maxPending {
			return ErrTooManyPending
		}
		_, err = tx.Media.Insert(m)
		return err
	})
	return m.ID, now.Add(pendingLife), err
}

// Fill keeps content for a media ID that Reserve handed out to the same user.
func (s *Service) Fill(ctx context.Context, mediaID string, u Upload) error {
	s.start()
	m, err := s.row(ctx, s.Server, mediaID)
	switch {
	case err != nil:
		return err
	case m.Uploader != u.User:
		return ErrNotYours
	case m.Hash != "":
		return ErrOverwrite
	case m.CreatedAt <= time.Now().Add(-pendingLife).UnixMilli():
		return fmt.Errorf("%w: its time is over", ErrNotFound)
	}
	err = s.receive(ctx, u, func(ctx context.Context, f store.MediaRow) error {
		m.Hash, m.Size, m.ContentType, m.Name = f.Hash, f.Size, f.ContentType, f.Name
		return s.Store.Update(ctx, func(tx *store.Tx) error {
			if err := s.withinQuota(tx, m); err != nil {
				return err
			}
			if ok, err := tx.Media.Fill(m); err != nil || !ok {
				return errors.Join(err, errIf(!ok, ErrOverwrite))
			}
			return nil
		})
	})
	if err == nil {
		s.wake(mediaID)
	}
	return err
}

// row finds what is known of media, which may still be to be uploaded.
func (s *Service) row(ctx context.Context, origin id.ServerName, mediaID string) (m store.MediaRow, err error) {
	if !ValidID(mediaID) {
		return m, fmt.Errorf("%w: that is no media ID", ErrNotFound)
	}
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		var ok bool
		if m, ok, err = tx.Media.Get(origin, mediaID); err == nil && !ok {
			err = ErrNotFound
		}
		return err
	})
	return m, err
}
