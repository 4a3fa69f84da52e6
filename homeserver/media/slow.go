package media

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// Downloads and uploads that are under way each hold a file and a connection for as long as the other end likes. So both have
// places: of one user, server or stranger's address, and in all. A client asks for the thumbnails of a whole list at once, so
// some more wait a while.
const (
	downloadsInAll, downloadsEach, downloadsInLine = 512, 32, 100
	uploadsInAll, uploadsEach, uploadsInLine       = 128, 8, 50

	linePatience = 10 * time.Second
)

// take takes a place, or says ErrCrowded if there is none within linePatience. Who got it must leave it.
func (p *places) take(ctx context.Context, who string) (*holder, error) {
	patient, cancel := context.WithTimeout(ctx, linePatience)
	defer cancel()
	c := &claim{taken: make(chan struct{})}
	if _, err := p.enter(patient, c, who, ""); err != nil {
		return nil, errors.Join(ctx.Err(), errIf(ctx.Err() == nil, ErrCrowded))
	}
	return c.place, nil
}

// whileLost has cut called if the place is lost. No call is under way or begins once end has returned.
func (h *holder) whileLost(cut func()) (end func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(h.inside, func() {
		defer close(done)
		if h.lost() {
			cut()
		}
	})
	return func() {
		if !stop() {
			<-done
		}
	}
}

func (h *holder) lost() bool { return errors.Is(context.Cause(h.inside), ErrCrowded) }

// moving is what is read for as long as there is a place.
type moving struct {
	io.Reader
	place *holder
}

func (m moving) Read(p []byte) (int, error) {
	if m.place.lost() {
		return 0, ErrCrowded
	}
	n, err := m.Reader.Read(p)
	if err != nil && m.place.lost() {
		err = ErrCrowded
	}
	return n, err
}

// Enter has content go out as a download of who wants it. It waits for a place if they have too many; if others need the place
// meanwhile, the download breaks off, also if nobody reads it. What is to be sent is read from body. leave must be called.
func (s *Service) Enter(w http.ResponseWriter, r *http.Request, wanted Wanted, content *Content) (body io.ReadSeeker, leave func(), err error) {
	s.start()
	place, err := s.downloads.take(r.Context(), wanted.who())
	if err != nil {
		return nil, nil, err
	}
	end := place.whileLost(func() {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0)) // tests have no connection
	})
	body = struct {
		io.Reader
		io.Seeker
	}{moving{content, place}, content}
	return body, func() { end(); s.downloads.leave(place) }, nil
}

// enter has an upload come in. If others need its place, it ends with ErrCrowded.
func (s *Service) enter(ctx context.Context, u *Upload) (leave func(), err error) {
	place, err := s.uploads.take(ctx, string(u.User))
	if err != nil {
		return nil, err
	}
	u.Body = moving{u.Body, place}
	end := func() {}
	if u.Cut != nil {
		end = place.whileLost(u.Cut)
	}
	return func() { end(); s.uploads.leave(place) }, nil
}
