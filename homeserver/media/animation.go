package media

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"io"

	"golang.org/x/image/webp"
)

// maxAnimated is up to which size a moving image is its own animated thumbnail. To make one, all frames would have to be
// decoded, and reduced to few colours again; larger ones get a still thumbnail.
const maxAnimated = 1 << 20

var errBrokenImage = errors.New("broken")

// moves says of a file whether it is an image with several frames, and of which type.
func (s *Service) moves(hash string) (contentType string, moves bool, err error) {
	f, err := s.open(hash)
	if err != nil {
		return "", false, err
	}
	defer func() { _ = f.Close() }()
	u, err := examine(f, s.MaxPixels)
	if err != nil {
		return "", false, err
	}
	switch u.contentType {
	case "image/gif":
		moves = gifFrames(bufio.NewReader(f), 2) == 2
	case "image/png":
		moves = bytes.Contains(u.head, []byte("acTL"))
	case "image/webp":
		moves = movingWebP(u.head)
	}
	return u.contentType, moves, nil
}

// gifFrames counts the frames of a GIF up to a limit. What is broken ends it.
func gifFrames(r *bufio.Reader, most int) (n int) {
	skip := func(size int) bool { _, err := r.Discard(size); return err == nil }
	table := func(flags byte) int { return int(flags>>7) * 3 << (flags&7 + 1) }
	header := make([]byte, 13)
	if _, err := io.ReadFull(r, header); err != nil || !skip(table(header[10])) {
		return 0
	}
	for n < most {
		kind, err := r.ReadByte()
		switch {
		case err != nil:
			return n
		case kind == '!': // an extension: its label
			if !skip(1) {
				return n
			}
		case kind == ',': // an image: its place, its colours, the size of its codes
			place := header[:9]
			if _, err := io.ReadFull(r, place); err != nil || !skip(table(place[8])+1) {
				return n
			}
			n++
		default:
			return n
		}
		for size := byte(1); size > 0; {
			if size, err = r.ReadByte(); err != nil || !skip(int(size)) {
				return n
			}
		}
	}
	return n
}

const webpHeader = 30 // of the extended form

// movingWebP reads the flag of animation from the header of the extended form.
func movingWebP(head []byte) bool {
	return len(head) >= webpHeader && bytes.HasPrefix(head[12:], []byte("VP8X")) && head[20]&2 != 0
}

// decodeWebP reads an image; of a moving one, which the decoder does not know, the first frame, made into an image of
// its own.
func decodeWebP(r io.Reader) (image.Image, error) {
	b := bufio.NewReader(r)
	if head, _ := b.Peek(webpHeader); !movingWebP(head) {
		return webp.Decode(b)
	}
	canvas, err := webpConfig(b) // and past it
	if err != nil {
		return nil, err
	}
	for {
		var chunk [8]byte
		if _, err := io.ReadFull(b, chunk[:]); err != nil {
			return nil, fmt.Errorf("%w: no frame", errBrokenImage)
		}
		size := binary.LittleEndian.Uint32(chunk[4:])
		if string(chunk[:4]) == "ANMF" {
			return decodeFrame(b, size, canvas)
		}
		if _, err := io.CopyN(io.Discard, b, int64(size)+int64(size&1)); err != nil {
			return nil, fmt.Errorf("%w: no frame", errBrokenImage)
		}
	}
}

// decodeFrame decodes the frame that follows, which must lie within the canvas: the memory was reckoned by that.
func decodeFrame(b *bufio.Reader, size uint32, canvas image.Config) (image.Image, error) {
	const place = 16
	var frame [place]byte
	if _, err := io.ReadFull(b, frame[:]); err != nil || size <= place || size > 1<<30 {
		return nil, fmt.Errorf("%w: a frame without content", errBrokenImage)
	}
	w, h := webpNumber(frame[6:])+1, webpNumber(frame[9:])+1
	if w > canvas.Width || h > canvas.Height {
		return nil, fmt.Errorf("%w: a frame larger than its image", errBrokenImage)
	}
	var flags byte
	if first, _ := b.Peek(4); string(first) == "ALPH" {
		flags = 0x10
	}
	head := binary.LittleEndian.AppendUint32([]byte("RIFF"), 4+18+size-place)
	head = append(head, "WEBPVP8X\x0a\x00\x00\x00"...)
	head = append(head, flags, 0, 0, 0)
	head = append(head, frame[6:12]...)
	return webp.Decode(io.MultiReader(bytes.NewReader(head), io.LimitReader(b, int64(size-place))))
}
