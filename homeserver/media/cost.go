package media

import (
	"bufio"
	"bytes"
	"fmt"
	"image"
	"image/color"
	"io"

	"golang.org/x/image/webp"
)

// costPerPixel is the memory for drawing, in bytes for each pixel that the largest image may have. It is shared by all
// images that are decoded at a time.
const costPerPixel = 6

// cost is how many bytes the decoders take at most for an image, by what its header says. They take them before they
// look at any pixel, so that a few bytes of file are enough to claim them.
func cost(f *format, c image.Config, head []byte, r io.Reader) (int64, error) {
	pixels := int64(c.Width) * int64(c.Height)
	switch f.contentType {
	case "image/png":
		return pixels * pngCost(head), nil
	case "image/jpeg":
		return jpegCost(c, r)
	case "image/gif":
		return pixels * 2, nil // a byte for each, and once more for putting interlaced rows in order
	default:
		if bytes.HasPrefix(head[12:], []byte("VP8 ")) {
			return pixels * 2, nil
		}
		return pixels * 10, nil // the image, the source of its last transform, and perhaps transparency apart
	}
}

// pngCost is for each pixel. All have the form that transparency needs; the passes of interlaced ones come besides.
func pngCost(head []byte) int64 {
	const depth, interlace = 24, 28 // where these stand in the file
	per := int64(4)
	if head[depth] == 16 {
		per = 8
	}
	if head[interlace] != 0 {
		per *= 2
	}
	return per
}

// jpegCost adds up the samples of all components, for which progressive images need the coefficients, too, and what
// colours other than YCbCr are converted to.
func jpegCost(c image.Config, r io.Reader) (int64, error) {
	marker, frame, err := jpegFrame(bufio.NewReader(r))
	const header = 6 // precision, height, width, number of components
	if err != nil || len(frame) < header+3 {
		return 0, fmt.Errorf("%w: it is broken", ErrNoThumbnail)
	}
	components := frame[header:]
	blocks := func(length int, sampling byte) int64 {
		side := 8 * max(1, int(sampling))
		return int64((length + side - 1) / side)
	}
	first := components[1]
	units := blocks(c.Width, first>>4) * blocks(c.Height, first&15)
	var total int64
	for ; len(components) >= 3; components = components[3:] {
		total += units * 64 * max(1, int64(components[1]>>4)) * max(1, int64(components[1]&15))
	}
	if marker == progressive {
		total *= 5
	}
	if c.ColorModel == color.RGBAModel || c.ColorModel == color.CMYKModel {
		total += 4 * int64(c.Width) * int64(c.Height)
	}
	return total, nil
}

// progressive is the marker of progressive frames of JPEG.
const progressive = 0xc2

// jpegFrame finds the header of the frame. It skips what the decoder skips, so that both see the same one.
func jpegFrame(r *bufio.Reader) (marker byte, frame []byte, err error) {
	if _, err := r.Discard(2); err != nil {
		return 0, nil, err
	}
	for {
		for b := byte(0); b != 0xff; {
			if b, err = r.ReadByte(); err != nil {
				return 0, nil, err
			}
		}
		for marker = 0xff; marker == 0xff; {
			if marker, err = r.ReadByte(); err != nil {
				return 0, nil, err
			}
		}
		if marker == 0 || marker >= 0xd0 && marker <= 0xd7 {
			continue
		}
		var length [2]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return 0, nil, err
		}
		size := max(0, int(length[0])<<8+int(length[1])-2)
		if marker >= 0xc0 && marker <= progressive {
			frame = make([]byte, size)
			_, err = io.ReadFull(r, frame)
			return marker, frame, err
		}
		if _, err := r.Discard(size); err != nil {
			return 0, nil, err
		}
	}
}

// webpConfig reads the size of the extended form from its header: to tell it, the decoder would decode transparency.
func webpConfig(r io.Reader) (image.Config, error) {
	head, err := io.ReadAll(io.LimitReader(r, webpHeader))
	if err != nil {
		return image.Config{}, err
	}
	if len(head) < webpHeader || !bytes.HasPrefix(head[12:], []byte("VP8X")) {
		return webp.DecodeConfig(io.MultiReader(bytes.NewReader(head), r))
	}
	return image.Config{ColorModel: color.NRGBAModel, Width: webpNumber(head[24:]) + 1, Height: webpNumber(head[27:]) + 1}, nil
}

func webpNumber(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }
