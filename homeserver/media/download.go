package media

import (
	"cmp"
	"context"
	"errors"
	"io"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Wanted names media and says how far to go for it.
type Wanted struct {
	Origin id.ServerName
	ID     string
	// User is who wants it; what is fetched or drawn counts for them.
	User id.UserID
	// Peer is the server that wants it, instead of a user.
	Peer id.ServerName
	// Address is where the one who wants it is, if that is a stranger.
	Address string
	// Wait is how long to wait for media that is still to be uploaded, at most a minute.
	Wait time.Duration
	// LocalOnly asks no other server for it.
	LocalOnly bool
	// Stranger says that nobody with an account asks. At most there is what was uploaded here, as far as nothing has
	// to be fetched, drawn or waited for.
	Stranger bool
}

// who is who waits for it and whom the work counts for.
func (w Wanted) who() string { return cmp.Or(string(w.User), string(w.Peer), w.Address) }

// Open opens media, of this server or another.
func (s *Service) Open(ctx context.Context, w Wanted) (*Content, error) {
	m, err := s.find(ctx, w)
	if err != nil {
		return nil, err
	}
	return s.content(m)
}

func (s *Service) content(m store.MediaRow) (*Content, error) {
	f, err := s.open(m.Hash)
	if err != nil {
		return nil, err
	}
	return &Content{f, m.Hash, m.Size, m.ContentType, m.Name}, nil
}

// find is the description of media that is here, after it was waited for or fetched.
func (s *Service) find(ctx context.Context, w Wanted) (store.MediaRow, error) {
	s.start()
	if w.Stranger {
		if !s.Unauthenticated || w.Origin != s.Server {
			return store.MediaRow{}, ErrNotFound
		}
		w.Wait = 0
	}
	m, err := s.row(ctx, w.Origin, w.ID)
	switch {
	case errors.Is(err, ErrNotFound) && w.Origin != s.Server && !w.LocalOnly && s.Remote != nil && ValidID(w.ID):
		return s.fetch(ctx, w)
	case err == nil && m.Hash == "":
		return s.await(ctx, w)
	case err == nil && m.Cached:
		s.use(ctx, m)
	}
	return m, err
}

// use notes that cached media was asked for. To the hour is enough.
func (s *Service) use(ctx context.Context, m store.MediaRow) {
	now := time.Now()
	if now.Sub(time.UnixMilli(m.UsedAt)) < time.Hour {
		return
	}
	err := s.Store.Update(ctx, func(tx *store.Tx) error { return tx.Media.SetUsed(m.Origin, m.ID, now) })
	if err != nil && ctx.Err() == nil {
		s.Log.Warn("cannot note that media was used", "err", err)
	}
}

// pollUploads is how often to look for uploads that another process received.
const pollUploads = time.Second

// await waits for an upload.
func (s *Service) await(ctx context.Context, w Wanted) (store.MediaRow, error) {
	defer s.wake(w.ID) // who else waits looks again, and waits on
	deadline := time.NewTimer(min(w.Wait, maxWait))
	defer deadline.Stop()
	poll := time.NewTicker(pollUploads)
	defer poll.Stop()
	for {
		uploaded := s.uploaded(w.ID)
		m, err := s.row(ctx, w.Origin, w.ID)
		if err != nil || m.Hash != "" {
			return m, err
		}
		select {
		case <-uploaded:
		case <-poll.C:
		case <-deadline.C:
			return m, ErrNotYetUploaded
		case <-ctx.Done():
			return m, ctx.Err()
		}
	}
}

// maxWaiting bounds how many media IDs are waited for by channel; others are found by polling.
const maxWaiting = 1000

// uploaded is closed once media was uploaded to this process; nil, which never is, if too many wait already.
func (s *Service) uploaded(mediaID string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.waiting[mediaID]
	if c == nil && len(s.waiting) < maxWaiting {
		c = make(chan struct{})
		s.waiting[mediaID] = c
	}
	return c
}

func (s *Service) wake(mediaID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.waiting[mediaID]; c != nil {
		close(c)
		delete(s.waiting, mediaID)
	}
}

// fetchTimeout bounds a download from another server.
const fetchTimeout = 5 * time.Minute

// fetch gets media of another server. Who asks for the same meanwhile shares the one download, which goes on if all go away.
func (s *Service) fetch(ctx context.Context, w Wanted) (store.MediaRow, error) {
	return s.fetches.do(ctx, string(w.Origin)+"/"+w.ID, w.who(), w.Origin, func(ctx context.Context) (store.MediaRow, error) {
		return s.download(ctx, w)
	})
}

func (s *Service) download(ctx context.Context, w Wanted) (store.MediaRow, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	remote, err := s.Remote.Download(ctx, w.Origin, w.ID, s.MaxRemote)
	if err != nil {
		return store.MediaRow{}, s.remoteError(w, err)
	}
	defer func() { _ = remote.Body.Close() }()
	body := &arriving{Reader: remote.Body}
	f, err := s.write(body, s.MaxRemote)
	switch {
	case body.failed != nil:
		return store.MediaRow{}, s.remoteError(w, body.failed)
	case errors.Is(err, ErrTooLarge):
		return store.MediaRow{}, ErrRemoteTooLarge
	case err != nil:
		return store.MediaRow{}, err // a fault of our own disk
	}
	defer s.described(f)
	now := time.Now().UnixMilli()
	m := store.MediaRow{
		Origin: w.Origin, ID: w.ID, Hash: f.hash, Size: f.size, ContentType: cleanType(remote.ContentType),
		Name: nameIn(remote.ContentDisposition), Cached: true, AskedBy: w.who(), CreatedAt: now, UsedAt: now,
	}
	fresh := false
	err = s.Store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) (err error) {
		fresh, err = tx.Media.Insert(m) // another process may have been faster
		return err
	})
	if err == nil && fresh {
		s.grown(ctx, m.Size)
	}
	return m, err
}

// arriving is what another server sends. It tells its errors from those of our own disk.
type arriving struct {
	io.Reader
	failed error
}

// Read reads on.
func (a *arriving) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		a.failed = err
	}
	return n, err
}

// remoteError says what a failed download means to who asked for it. What exactly went wrong is for the log.
func (s *Service) remoteError(w Wanted, err error) error {
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrNotYetUploaded), errors.Is(err, ErrRemoteTooLarge):
		return err
	}
	s.Log.Info("cannot fetch media", "server", w.Origin, "err", err)
	return ErrRemote
}
