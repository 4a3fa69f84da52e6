package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"testing"
)

// quarters is an image with a colour in each quarter.
func quarters(w, h int) *image.NRGBA {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			c := color.NRGBA{R: 255, A: 255}
			switch {
			case x >= w/2 && y < h/2:
				c = color.NRGBA{G: 255, A: 255}
			case x < w/2 && y >= h/2:
				c = color.NRGBA{B: 255, A: 255}
			case x >= w/2:
				c = color.NRGBA{R: 255, G: 255, B: 255, A: 128}
			}
			m.SetNRGBA(x, y, c)
		}
	}
	return m
}

func asPNG(t testing.TB, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// asJPEG encodes an image, with an orientation unless that is 0.
func asJPEG(t testing.TB, m image.Image, orientation uint16) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, nil); err != nil {
		t.Fatal(err)
	}
	if orientation == 0 {
		return b.Bytes()
	}
	exif := []byte("\xff\xe1\x00\x22Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00")
	binary.BigEndian.PutUint16(exif[28:], orientation)
	return append(append(b.Bytes()[:2:2], exif...), b.Bytes()[2:]...)
}

func near(t *testing.T, m image.Image, x, y int, want color.NRGBA) {
	t.Helper()
	got := color.NRGBAModel.Convert(m.At(x, y)).(color.NRGBA)
	for _, d := range []int{int(got.R) - int(want.R), int(got.G) - int(want.G), int(got.B) - int(want.B), int(got.A) - int(want.A)} {
		if d > 12 || d < -12 {
			t.Errorf("at %d,%d stands %v, want %v", x, y, got, want)
			return
		}
	}
}

func TestScale(t *testing.T) {
	// By a little, and by so much that it is reduced first.
	for _, w := range []int{150, 1003} {
		m := quarters(w, w)
		out := scale(m, m.Bounds(), image.Pt(100, 100))
		near(t, out, 10, 10, color.NRGBA{R: 255, A: 255})
		near(t, out, 90, 10, color.NRGBA{G: 255, A: 255})
		near(t, out, 10, 90, color.NRGBA{B: 255, A: 255})
		near(t, out, 90, 90, color.NRGBA{R: 255, G: 255, B: 255, A: 128})
	}
}

// The eight orientations of Exif: where the upper left corner of the upright image is in the file.
func TestOrientations(t *testing.T) {
	corners := map[turn]image.Point{1: {0, 0}, 2: {1, 0}, 3: {1, 1}, 4: {0, 1}, 5: {0, 0}, 6: {0, 1}, 7: {1, 1}, 8: {1, 0}}
	// The neighbour of the corner along the upright image's upper edge.
	along := map[turn]image.Point{1: {1, 0}, 2: {0, 0}, 3: {0, 1}, 4: {1, 1}, 5: {0, 1}, 6: {0, 0}, 7: {1, 0}, 8: {1, 1}}
	for o := turn(1); o <= 8; o++ {
		src := image.NewRGBA(image.Rect(0, 0, 2, 2))
		src.Set(corners[o].X, corners[o].Y, color.RGBA{R: 255, A: 255})
		src.Set(along[o].X, along[o].Y, color.RGBA{G: 255, A: 255})
		out := o.apply(src)
		near(t, out, 0, 0, color.NRGBA{R: 255, A: 255})
		near(t, out, 1, 0, color.NRGBA{G: 255, A: 255})
		p, err := decode(bytes.NewReader(asJPEG(t, src, uint16(o))), 100)
		if err != nil || p.turn != o {
			t.Errorf("orientation %d was read as %+v, %v", o, p, err)
		}
	}
	if got := turn(6).apply(image.NewRGBA(image.Rect(0, 0, 4, 2))).Bounds().Size(); got != image.Pt(2, 4) {
		t.Errorf("a lying image became %v", got)
	}
}

func TestSnapAndPlan(t *testing.T) {
	for _, test := range []struct {
		image image.Point
		want  Size
		part  image.Point // of the image
		to    image.Point
	}{
		{image.Pt(1000, 500), Size{Width: 32, Height: 32, Crop: true}, image.Pt(500, 500), image.Pt(32, 32)},
		{image.Pt(1000, 500), Size{Width: 33, Height: 33, Crop: true}, image.Pt(500, 500), image.Pt(96, 96)},
		{image.Pt(1000, 500), Size{Width: 33, Height: 34, Crop: true}, image.Pt(1000, 500), image.Pt(320, 160)},
		{image.Pt(1000, 500), Size{Width: 32, Height: 32}, image.Pt(1000, 500), image.Pt(320, 160)},
		{image.Pt(1000, 500), Size{Width: 320, Height: 241}, image.Pt(1000, 500), image.Pt(640, 320)},
		{image.Pt(1000, 500), Size{Width: 9999, Height: 9999}, image.Pt(1000, 500), image.Pt(1000, 500)},
		{image.Pt(20, 10), Size{Width: 32, Height: 32, Crop: true}, image.Pt(10, 10), image.Pt(10, 10)},
		{image.Pt(20, 10), Size{Width: 32, Height: 32}, image.Pt(20, 10), image.Pt(20, 10)},
		{image.Pt(10000, 1), Size{Width: 32, Height: 32}, image.Pt(10000, 1), image.Pt(320, 1)},
		{image.Pt(1, 10000), Size{Width: 32, Height: 32, Crop: true}, image.Pt(1, 1), image.Pt(1, 1)},
	} {
		p := &picture{image: image.NewGray(image.Rectangle{Max: test.image}), turn: upright}
		from, to := p.plan(snap(test.want))
		if from.Size() != test.part || to != test.to {
			t.Errorf("%v as %+v: %v of it became %v", test.image, test.want, from, to)
		}
		if middle := from.Min.Add(from.Max).Sub(test.image); middle.X*middle.X > 1 || middle.Y*middle.Y > 1 {
			t.Errorf("%v as %+v: %v is not the middle", test.image, test.want, from)
		}
	}
}

func decode(r io.ReadSeeker, maxPixels int) (*picture, error) {
	u, err := examine(r, maxPixels)
	if err != nil {
		return nil, err
	}
	return u.decode()
}

func TestDecodeBounds(t *testing.T) {
	raw := asPNG(t, image.NewGray(image.Rect(0, 0, 10, 10)))
	if _, err := decode(bytes.NewReader(raw), 100); err != nil {
		t.Error(err)
	}
	if _, err := decode(bytes.NewReader(raw), 99); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one pixel too many: %v", err)
	}
	// A size that is claimed must be refused before memory is taken for it.
	bomb := bytes.Clone(raw)
	binary.BigEndian.PutUint32(bomb[16:], 1<<30)
	binary.BigEndian.PutUint32(bomb[20:], 1<<30)
	for name, b := range map[string][]byte{"bomb": bomb, "cut": raw[:len(raw)/2], "text": []byte("hello"), "nothing": nil} {
		if _, err := decode(bytes.NewReader(b), 1000); !errors.Is(err, ErrNoThumbnail) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(asPNG(f, quarters(3, 2)))
	f.Add(asJPEG(f, quarters(9, 2), 6))
	var b bytes.Buffer
	if err := gif.Encode(&b, quarters(3, 2), nil); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := decode(bytes.NewReader(raw), 1<<12)
		if err != nil {
			return
		}
		if s := p.image.Bounds().Size(); s.X*s.Y > 1<<12 {
			t.Errorf("an image of %v passed the limit", s)
		}
		for _, size := range sizes[:4] {
			from, to := p.plan(size)
			out := p.turn.apply(scale(p.image, from, to))
			if got := out.Bounds().Size(); got.X > size.Width || got.Y > size.Height || got.X < 1 || got.Y < 1 {
				t.Errorf("%v as %+v became %v", p.image.Bounds(), size, got)
			}
		}
	})
}
