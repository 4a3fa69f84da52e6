package clientapi

import (
	"bytes"
	"compress/gzip"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
)

const (
	// compressFrom is the size of answers from which on they are compressed for who understands that. Answers with
	// tokens are smaller, so that nothing is told by their size.
	compressFrom = 1 << 10
	// padding is how many bytes at most a compressed answer is longer than it must be. Others decide part of what a
	// user is answered, and whoever sees the size of it on the wire could find out what else is in it.
	padding = 64
)

// compressors bounds the compressing that goes on at a time: an answer that finds none free goes out as it is.
type compressors chan *gzip.Writer

// theCompressors keep their memory, about a megabyte each, and are as many as there are processors.
var theCompressors = sync.OnceValue(func() compressors {
	c := make(compressors, runtime.GOMAXPROCS(0))
	for range cap(c) {
		c <- nil
	}
	return c
})

// compress compresses an answer of compressFrom bytes or more, if the client takes that; else it returns it. The
// headers say which.
func (c compressors) compress(r *http.Request, h http.Header, body []byte, into *bytes.Buffer) []byte {
	h["Vary"] = append(h["Vary"], "Accept-Encoding")
	if !acceptsGzip(r.Header["Accept-Encoding"]) {
		return body
	}
	var w *gzip.Writer
	select {
	case w = <-c:
	default:
		return body
	}
	defer func() { c <- w }()
	into.Reset()
	if w == nil {
		w, _ = gzip.NewWriterLevel(into, gzip.BestSpeed) // no error at a level that exists
	} else {
		w.Reset(into)
	}
	w.Comment = strings.Repeat("-", 1+rand.IntN(padding-1)) //nolint:gosec // noise
	_, err := w.Write(body)
	if closeErr := w.Close(); err != nil || closeErr != nil || into.Len() >= len(body) {
		return body
	}
	h["Content-Encoding"] = gzipEncoding
	return into.Bytes()
}

var gzipEncoding = []string{"gzip"}

// acceptsGzip reads Accept-Encoding (RFC 9110, section 12.5.3).
func acceptsGzip(headers []string) bool {
	for _, header := range headers {
		for part := range strings.SplitSeq(header, ",") {
			coding, weight, _ := strings.Cut(part, ";")
			if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
				continue
			}
			q, given := strings.CutPrefix(strings.ReplaceAll(weight, " ", ""), "q=")
			n, err := strconv.ParseFloat(q, 64)
			return !given || err == nil && n > 0
		}
	}
	return false
}
