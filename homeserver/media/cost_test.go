package media

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/gif"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// interlaced claims that a PNG file is.
func interlaced(raw []byte) []byte {
	raw = bytes.Clone(raw)
	raw[28] = 1
	binary.BigEndian.PutUint32(raw[29:], crc32.ChecksumIEEE(raw[12:29]))
	return raw
}

// jpegHeader is a file that ends after the header of its frame; what the decoder skips stands before it.
func jpegHeader(marker byte, w, h, components int, sampling byte) []byte {
	raw := []byte("\xff\xd8\xff\x00\x01\x02\xff\xd0\xff\xff\xfe\x00\x04\xff\xc0")
	raw = append(raw, 0xff, marker, 0, byte(8+3*components), 8, byte(h>>8), byte(h), byte(w>>8), byte(w), byte(components))
	for i := range components {
		raw = append(raw, byte(i+1), sampling, 0)
		sampling = 0x11
	}
	return append(raw, "\xff\xda\x00\x02"...)
}

// extended is the header of a WebP file, of which it says that transparency comes next.
func extended(w, h int) []byte {
	raw := []byte("RIFF\x00\x01\x00\x00WEBPVP8X\x0a\x00\x00\x00\x10\x00\x00\x00")
	raw = append(raw, byte(w-1), byte((w-1)>>8), byte((w-1)>>16), byte(h-1), byte((h-1)>>8), byte((h-1)>>16))
	return append(append(raw, "ALPH\x40\x00\x00\x00\x00"...), make([]byte, 63)...)
}

// TestCosts has pictures of 64 by 64 pixels at the limit for their memory, and past it.
func TestCosts(t *testing.T) {
	const side, pixels = 64, 64 * 64
	size := image.Rect(0, 0, side, side)
	var animated bytes.Buffer
	if err := gif.Encode(&animated, quarters(side, side), nil); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		raw  []byte
		cost int64
	}{
		"grey":                {asPNG(t, image.NewGray(size)), 4 * pixels},
		"16 bits":             {asPNG(t, image.NewGray16(size)), 8 * pixels},
		"16 bits, interlaced": {interlaced(asPNG(t, image.NewNRGBA64(size))), 16 * pixels},
		"interlaced":          {interlaced(asPNG(t, quarters(side, side))), 8 * pixels},
		"JPEG":                {asJPEG(t, quarters(side, side), 1), pixels * 3 / 2},
		"JPEG, 4:4:4":         {jpegHeader(0xc0, side, side, 3, 0x11), 3 * pixels},
		"JPEG, four colours":  {jpegHeader(0xc1, side, side, 4, 0x11), 8 * pixels},
		"progressive, grey":   {jpegHeader(0xc2, side, side, 1, 0x11), 5 * pixels},
		"progressive, 4:2:0":  {jpegHeader(0xc2, side, side, 3, 0x22), 15 * pixels / 2},
		"progressive, four":   {jpegHeader(0xc2, side, side, 4, 0x11), 24 * pixels},
		"GIF":                 {animated.Bytes(), 2 * pixels},
		"WebP":                {extended(side, side), 10 * pixels},
	} {
		u, err := examine(bytes.NewReader(test.raw), 100*pixels)
		if err != nil || u.cost != test.cost {
			t.Errorf("%s costs %d, not %d: %v", name, u.cost, test.cost, err)
		}
		atLimit := int((test.cost + costPerPixel - 1) / costPerPixel)
		if atLimit <= pixels {
			continue
		}
		if _, err := examine(bytes.NewReader(test.raw), atLimit); err != nil {
			t.Errorf("%s at the limit: %v", name, err)
		}
		if _, err := examine(bytes.NewReader(test.raw), atLimit-1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s past the limit: %v", name, err)
		}
	}
}

// TestBombs: a few bytes claim memory that may not be taken, not even to find out the size.
func TestBombs(t *testing.T) {
	for name, raw := range map[string][]byte{
		"progressive JPEG": jpegHeader(0xc2, 8000, 4000, 4, 0x11),
		"transparent WebP": extended(1<<24, 1<<24),
	} {
		if _, err := decode(bytes.NewReader(raw), 32_000_000); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDrawingsShareMemory: what the one takes, the other has to wait for.
func TestDrawingsShareMemory(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := &Service{Store: db, Dir: t.TempDir(), MaxPixels: 10_000, MaxUpload: 1 << 20}
		s.start()
		kept, err := s.write(bytes.NewReader(asPNG(t, quarters(100, 100))), s.MaxUpload)
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		const rest = 4*10_000 - 1
		if err := s.memory.Acquire(ctx, costPerPixel*10_000-rest); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		if _, err := s.draw(short, "", kept.hash, sizes[0]); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a byte of memory is missing: %v", err)
		}
		s.memory.Release(1)
		if _, err := s.draw(ctx, "", kept.hash, sizes[0]); err != nil {
			t.Error(err)
		}
		if !s.memory.TryAcquire(rest + 1) {
			t.Error("the memory was not given back")
		}
	})
}
