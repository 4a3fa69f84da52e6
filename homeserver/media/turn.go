package media

import (
	"bytes"
	"encoding/binary"
	"image"
)

// turn is how an image has to be turned and mirrored to stand upright: the orientation of the Exif
// specification, from 1 to 8.
type turn uint8

const upright turn = 1

// lying says whether width and height change places.
func (t turn) lying() bool { return t >= 5 }

// apply makes the image stand upright.
func (t turn) apply(src *image.RGBA) *image.RGBA {
	if t == upright {
		return src
	}
	w, h := src.Rect.Dx(), src.Rect.Dy()
	if t.lying() {
		w, h = h, w
	}
	dst := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			sx, sy := x, y
			switch t {
			case 2:
				sx = w - 1 - x
			case 3:
				sx, sy = w-1-x, h-1-y
			case 4:
				sy = h - 1 - y
			case 5:
				sx, sy = y, x
			case 6:
				sx, sy = y, w-1-x
			case 7:
				sx, sy = h-1-y, w-1-x
			case 8:
				sx, sy = h-1-y, x
			}
			copy(dst.Pix[dst.PixOffset(x, y):][:4], src.Pix[src.PixOffset(sx, sy):][:4])
		}
	}
	return dst
}

const tagOrientation = 0x0112

// orientation finds the Exif orientation at the head of a JPEG file; upright if it has none.
func orientation(head []byte) turn {
	for at := 2; at+4 <= len(head) && head[at] == 0xff; {
		marker, size := head[at+1], int(binary.BigEndian.Uint16(head[at+2:]))
		if marker == 0xda || size < 2 { // the image itself begins
			return upright
		}
		segment := head[at+4 : min(len(head), max(at+4, at+2+size))]
		if body, ok := bytes.CutPrefix(segment, []byte("Exif\x00\x00")); marker == 0xe1 && ok {
			return orientationInTIFF(body)
		}
		at += 2 + size
	}
	return upright
}

func orientationInTIFF(b []byte) turn {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(b, []byte("II*\x00")):
		order = binary.LittleEndian
	case bytes.HasPrefix(b, []byte("MM\x00*")):
		order = binary.BigEndian
	default:
		return upright
	}
	if len(b) < 8 {
		return upright
	}
	at := int64(order.Uint32(b[4:]))
	if at+2 > int64(len(b)) {
		return upright
	}
	entries := b[at+2:]
	for range order.Uint16(b[at:]) {
		if len(entries) < 12 {
			return upright
		}
		if order.Uint16(entries) == tagOrientation {
			if value := order.Uint16(entries[8:]); value >= 1 && value <= 8 {
				return turn(value)
			}
			return upright
		}
		entries = entries[12:]
	}
	return upright
}
