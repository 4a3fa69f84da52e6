package media

import (
	"bytes"
	"fmt"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"

	"golang.org/x/image/draw"
)

// picture is a decoded image.
type picture struct {
	image       image.Image
	contentType string
	still       bool // certainly not animated
	turn        turn
}

type format struct {
	contentType string
	magic       string // '?' stands for any byte
	config      func(io.Reader) (image.Config, error)
	decode      func(io.Reader) (image.Image, error)
	still       bool
}

// formats are the images that are understood. The type is found in the content: what a client says may be wrong.
var formats = []format{
	{"image/png", "\x89PNG\r\n\x1a\n", png.DecodeConfig, png.Decode, false},
	{"image/jpeg", "\xff\xd8\xff", jpeg.DecodeConfig, jpeg.Decode, true},
	{"image/gif", "GIF8?a", gif.DecodeConfig, gif.Decode, false},
	{"image/webp", "RIFF????WEBPVP8", webpConfig, decodeWebP, false},
}

func (f *format) matches(head []byte) bool {
	if len(head) < len(f.magic) {
		return false
	}
	for i, b := range []byte(f.magic) {
		if b != '?' && b != head[i] {
			return false
		}
	}
	return true
}

// headSize is how much of a file is looked at for its format, animation and orientation.
const headSize = 64 << 10

// sniff finds the format and size of an image, without decoding it. The reader stands at the start again.
func sniff(r io.ReadSeeker) (*format, image.Config, []byte, error) {
	head, err := io.ReadAll(io.LimitReader(r, headSize))
	if err != nil {
		return nil, image.Config{}, nil, fmt.Errorf("read an image: %w", err)
	}
	for i := range formats {
		f := &formats[i]
		if !f.matches(head) {
			continue
		}
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			return nil, image.Config{}, nil, fmt.Errorf("read an image: %w", err)
		}
		config, err := f.config(r)
		if err != nil || config.Width <= 0 || config.Height <= 0 {
			return nil, config, nil, fmt.Errorf("%w: it is broken", ErrNoThumbnail)
		}
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			return nil, config, nil, fmt.Errorf("read an image: %w", err)
		}
		return f, config, head, nil
	}
	return nil, image.Config{}, nil, ErrNoThumbnail
}

// undecoded is an image of which only the header was read.
type undecoded struct {
	*format
	io.ReadSeeker
	head []byte
	cost int64 // of decoding it, in bytes
}

// examine reads the header of an image of at most so many pixels.
func examine(r io.ReadSeeker, maxPixels int) (u undecoded, err error) {
	u.ReadSeeker = r
	var config image.Config
	if u.format, config, u.head, err = sniff(r); err != nil {
		return u, err
	}
	if config.Width > maxPixels/config.Height {
		return u, fmt.Errorf("%w: the image has more than %d pixels", ErrTooLarge, maxPixels)
	}
	if u.cost, err = cost(u.format, config, u.head, r); err != nil {
		return u, err
	}
	if u.cost > costPerPixel*int64(maxPixels) {
		return u, fmt.Errorf("%w: to decode the image takes too much memory", ErrTooLarge)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return u, fmt.Errorf("read an image: %w", err)
	}
	return u, nil
}

// decode reads the image; of an animated one, the first frame.
func (f undecoded) decode() (p *picture, err error) {
	head := f.head
	img, err := f.format.decode(f)
	if err != nil {
		return nil, fmt.Errorf("%w: it is broken", ErrNoThumbnail)
	}
	if img.Bounds().Empty() {
		return nil, fmt.Errorf("%w: it is empty", ErrNoThumbnail)
	}
	p = &picture{image: img, contentType: f.contentType, still: f.still, turn: upright}
	switch f.contentType {
	case "image/jpeg":
		p.turn = orientation(head)
	case "image/png":
		p.still = !bytes.Contains(head, []byte("acTL")) // the mark of APNG stands before the image data
	case "image/webp":
		p.still = !bytes.HasPrefix(head[12:], []byte("VP8X")) // the simple forms have one frame
	}
	return p, nil
}

// encode writes a thumbnail: as JPEG what was one or is a photo, as PNG what else has sharp edges or holes.
func encode(w io.Writer, img image.Image, source string) (contentType string, err error) {
	opaque, known := img.(interface{ Opaque() bool })
	if source == "image/jpeg" || source == "image/webp" && known && opaque.Opaque() {
		return "image/jpeg", jpeg.Encode(w, img, &jpeg.Options{Quality: 85})
	}
	encoder := png.Encoder{CompressionLevel: png.DefaultCompression}
	return "image/png", encoder.Encode(w, img)
}

// scale makes a smaller image of a part of one. Large ones are first reduced by a whole number, strip by strip, so that
// only one large image, the decoded one, is in memory. What is left is less than by half, for which no more than the
// nearest pixels are needed; better ways would need more memory than decoding.
func scale(src image.Image, from image.Rectangle, to image.Point) *image.RGBA {
	dst := image.NewRGBA(image.Rectangle{Max: to})
	if n := min(from.Dx()/to.X, from.Dy()/to.Y); n > 1 {
		reduced := reduce(src, from, n)
		src, from = reduced, reduced.Bounds()
	}
	draw.ApproxBiLinear.Scale(dst, dst.Bounds(), src, from, draw.Src, nil)
	return dst
}

// reduce averages squares of n by n pixels.
func reduce(src image.Image, from image.Rectangle, n int) *image.RGBA {
	out := image.NewRGBA(image.Rect(0, 0, from.Dx()/n, from.Dy()/n))
	strip := image.NewRGBA(image.Rect(0, 0, out.Rect.Dx()*n, n))
	area := uint32(n * n)
	for y := range out.Rect.Dy() {
		draw.Draw(strip, strip.Rect, src, image.Pt(from.Min.X, from.Min.Y+y*n), draw.Src)
		for x := range out.Rect.Dx() {
			var sum [4]uint32
			for row := range n {
				at := row*strip.Stride + x*n*4
				for i, b := range strip.Pix[at : at+4*n] {
					sum[i&3] += uint32(b)
				}
			}
			for i := range sum {
				out.Pix[y*out.Stride+x*4+i] = byte((sum[i] + area/2) / area)
			}
		}
	}
	return out
}
