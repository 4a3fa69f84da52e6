package media

import (
	"mime"
	"os"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// Content is content ready to be read. It must be closed.
type Content struct {
	*os.File
	Hash        string
	Size        int64
	ContentType string
	Name        string // empty: none was given
}

// unknownType is the type of content that nobody named a type for.
const unknownType = "application/octet-stream"

// inlineTypes are types that a browser may show without asking (Client-Server API, "Serving inline content").
var inlineTypes = []string{
	"text/css", "text/plain", "text/csv", "application/json", "application/ld+json", "image/jpeg", "image/gif", "image/png",
	"image/apng", "image/webp", "image/avif", "video/mp4", "video/webm", "video/ogg", "video/quicktime", "audio/mp4",
	"audio/webm", "audio/aac", "audio/mpeg", "audio/ogg", "audio/wave", "audio/wav", "audio/x-wav", "audio/x-pn-wav",
	"audio/flac", "audio/x-flac",
}

// Disposition is the Content-Disposition of the content. A name, if given, replaces the content's own.
func (c *Content) Disposition(name string) string {
	kind, _, err := mime.ParseMediaType(c.ContentType)
	disposition := "attachment"
	if err == nil && slices.Contains(inlineTypes, kind) {
		disposition = "inline"
	}
	if name = cleanName(name); name == "" {
		name = c.Name
	}
	if name == "" {
		return disposition
	}
	return mime.FormatMediaType(disposition, map[string]string{"filename": name})
}

// cleanType keeps the words of whoever named the type, if they can stand in a header.
func cleanType(t string) string {
	if t == "" || len(t) > 255 || strings.ContainsFunc(t, func(r rune) bool { return r < ' ' || r > '~' }) {
		return unknownType
	}
	return t
}

// cleanName makes a file's name harmless: no folders, nothing that is not a character, no endless length.
func cleanName(name string) string {
	name = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, name), "")
	name = path.Base(strings.ReplaceAll(name, `\`, "/"))
	if name == "." || name == ".." || name == "/" {
		return ""
	}
	for len(name) > maxName {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return name
}

// nameIn is the file's name in a Content-Disposition of another server.
func nameIn(disposition string) string {
	_, params, err := mime.ParseMediaType(disposition)
	if err != nil {
		return ""
	}
	return cleanName(params["filename"])
}

// ValidID says whether a media ID has the form that the specification gives it ("Matrix Content URIs").
func ValidID(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
