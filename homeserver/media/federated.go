package media

import (
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strconv"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

// ServeFederation answers another server, the peer, whose request has been checked, with media of this server or a thumbnail of it
// (Server-Server API, "Content Repository"). It has written nothing if it returns an error.
func (s *Service) ServeFederation(w http.ResponseWriter, r *http.Request, peer id.ServerName, mediaID string, thumbnail bool) error {
	query := r.URL.Query()
	numbers := map[string]int{"timeout_ms": int(DefaultWait.Milliseconds())}
	for _, name := range []string{"timeout_ms", "width", "height"} {
		value := query.Get(name)
		if value == "" && (name == "timeout_ms" || !thumbnail) {
			continue
		}
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return fmt.Errorf("%w: %s must be a number", id.ErrInvalid, name)
		}
		numbers[name] = int(n)
	}
	wanted := Wanted{Origin: s.Server, ID: mediaID, Peer: peer, Wait: time.Duration(numbers["timeout_ms"]) * time.Millisecond, LocalOnly: true}
	var content *Content
	var err error
	if thumbnail {
		size := Size{Width: numbers["width"], Height: numbers["height"], Crop: query.Get("method") == "crop"}
		content, err = s.Thumbnail(r.Context(), wanted, size)
	} else {
		content, err = s.Open(r.Context(), wanted)
	}
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	body, leave, err := s.Enter(w, r, wanted, content)
	if err != nil {
		return err
	}
	defer leave()
	parts := multipart.NewWriter(w)
	w.Header().Set("Content-Type", "multipart/mixed; boundary="+parts.Boundary())
	if err := writeParts(parts, content, body); err != nil && r.Context().Err() == nil {
		s.Log.Info("cannot send media to another server", "err", err)
	}
	return nil
}

// writeParts writes empty metadata, then the content as it is read from from.
func writeParts(parts *multipart.Writer, content *Content, from io.Reader) error {
	metadata, err := parts.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/json"}})
	if err != nil {
		return err
	}
	if _, err := io.WriteString(metadata, "{}"); err != nil {
		return err
	}
	body, err := parts.CreatePart(textproto.MIMEHeader{
		"Content-Type": {content.ContentType}, "Content-Disposition": {content.Disposition("")},
	})
	if err != nil {
		return err
	}
	if _, err := io.Copy(body, from); err != nil {
		return err
	}
	return parts.Close()
}
