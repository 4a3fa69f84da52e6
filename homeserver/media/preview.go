package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/html/charset"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

const (
	maxAddress     = 2048
	maxPage        = 1 << 20
	maxImage       = 10 << 20
	maxRedirects   = 5
	previewTimeout = 20 * time.Second
	previewAgent   = "Mozilla/5.0 (compatible; SecureComm link preview)"
)

// Preview is what a link leads to, in the words of Open Graph. It is shared and must not be changed.
type Preview struct {
	Properties map[string]any
}

// Preview looks at the page behind a link for a user. Answers are kept for an hour.
func (s *Service) Preview(ctx context.Context, user id.UserID, address string) (*Preview, error) {
	if s.Web == nil {
		return nil, ErrNoPreviews
	}
	s.start()
	at, err := url.Parse(address)
	if err != nil || len(address) > maxAddress || !fetchable(at) {
		return nil, ErrBadAddress
	}
	at.Fragment = ""
	key := at.String()
	if p, ok := s.pages.GetIfPresent(key); ok {
		return p, nil
	}
	return s.previews.do(ctx, key, string(user), id.ServerName(strings.ToLower(at.Hostname())), func(ctx context.Context) (*Preview, error) {
		ctx, cancel := context.WithTimeout(ctx, previewTimeout)
		defer cancel()
		p, err := s.preview(ctx, user, at)
		if err != nil {
			s.Log.Info("cannot preview a link", "host", at.Host, "err", err)
			return nil, ErrPreviewFailed
		}
		s.pages.Set(key, p)
		return p, nil
	})
}

// fetchable says whether an address is one of the web, with nothing secret in it.
func fetchable(at *url.URL) bool {
	return (at.Scheme == "http" || at.Scheme == "https") && at.Host != "" && at.User == nil
}

func (s *Service) preview(ctx context.Context, user id.UserID, at *url.URL) (*Preview, error) {
	response, err := s.get(ctx, at, "text/html, image/*;q=0.9, */*;q=0.5")
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	kind, _, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	switch {
	case err != nil:
		return nil, errors.New("the page has no type")
	case strings.HasPrefix(kind, "image/"):
		p := &Preview{map[string]any{"og:url": at.String()}}
		return p, s.addImage(ctx, user, p, response.Body)
	case kind != "text/html" && kind != "application/xhtml+xml":
		return nil, fmt.Errorf("the page is of type %.50q", kind)
	}
	text, err := charset.NewReader(io.LimitReader(response.Body, maxPage), response.Header.Get("Content-Type"))
	if err != nil {
		return nil, fmt.Errorf("read the page: %w", err)
	}
	p, image := readPage(text)
	if len(p.Properties) == 0 && image == "" {
		return nil, errors.New("the page says nothing of itself")
	}
	if image != "" {
		// Without its image the preview is still worth something.
		if err := s.addImageAt(ctx, user, p, response.Request.URL, image); err != nil {
			s.Log.Debug("no image for a link preview", "host", at.Host, "err", err)
		}
	}
	return p, nil
}

// get fetches a page or an image. The body must be closed.
func (s *Service) get(ctx context.Context, at *url.URL, accept string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", previewAgent)
	request.Header.Set("Accept", accept)
	web := *s.Web
	web.CheckRedirect = func(next *http.Request, before []*http.Request) error {
		if len(before) > maxRedirects || !fetchable(next.URL) {
			return errors.New("redirected too often, or to what is not of the web")
		}
		return nil
	}
	response, err := web.Do(request)
	var withURL *url.Error
	if errors.As(err, &withURL) {
		err = withURL.Err // the address is a user's secret
	}
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		return nil, fmt.Errorf("status %d", response.StatusCode)
	}
	return response, nil
}

func (s *Service) addImageAt(ctx context.Context, user id.UserID, p *Preview, page *url.URL, image string) error {
	at, err := page.Parse(image)
	if err != nil || len(image) > maxAddress || !fetchable(at) {
		return ErrBadAddress
	}
	response, err := s.get(ctx, at, "image/*")
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	return s.addImage(ctx, user, p, response.Body)
}

// addImage keeps an image for a user and puts it into a preview.
func (s *Service) addImage(ctx context.Context, user id.UserID, p *Preview, body io.Reader) error {
	raw, err := io.ReadAll(io.LimitReader(body, maxImage+1))
	if err != nil {
		return fmt.Errorf("read an image: %w", err)
	}
	if len(raw) > maxImage {
		return ErrTooLarge
	}
	f, config, _, err := sniff(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	kept, err := s.write(bytes.NewReader(raw), maxImage)
	if err != nil {
		return err
	}
	defer s.described(kept)
	mediaID, err := s.insert(ctx, store.MediaRow{Hash: kept.hash, Size: kept.size, ContentType: f.contentType, Cached: true, AskedBy: string(user)})
	if err != nil {
		return err
	}
	p.Properties["og:image"] = "mxc://" + string(s.Server) + "/" + mediaID
	p.Properties["og:image:type"] = f.contentType
	p.Properties["og:image:width"] = config.Width
	p.Properties["og:image:height"] = config.Height
	p.Properties["matrix:image:size"] = kept.size
	return nil
}
