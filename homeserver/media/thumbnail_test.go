package media_test

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/color"
	"image/gif"
	"image/png"
	"io"
	"os"
	"testing"

	"github.com/securecomm/securecomm/homeserver/media"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

func pngOf(t *testing.T, w, h int) string {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, w, h))); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestThumbnails(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, ctx := service(t, db), context.Background()
		large, small := save(t, s, upload(pngOf(t, 800, 400))), save(t, s, upload(pngOf(t, 40, 20)))
		var animated bytes.Buffer
		frame := image.NewPaletted(image.Rect(0, 0, 5, 5), color.Palette{color.Black, color.White})
		if err := gif.EncodeAll(&animated, &gif.GIF{Image: []*image.Paletted{frame, frame}, Delay: []int{1, 1}}); err != nil {
			t.Fatal(err)
		}
		moving := save(t, s, upload(animated.String()))
		for _, test := range []struct {
			mediaID string
			size    media.Size
			want    image.Point
		}{
			{large, media.Size{Width: 32, Height: 32}, image.Pt(320, 160)},
			{large, media.Size{Width: 32, Height: 32, Crop: true}, image.Pt(32, 32)},
			{large, media.Size{Width: 32, Height: 32, Crop: true}, image.Pt(32, 32)},
			{small, media.Size{Width: 32, Height: 32}, image.Pt(40, 20)},
			{moving, media.Size{Width: 32, Height: 32}, image.Pt(5, 5)},
		} {
			c, err := s.Thumbnail(ctx, media.Wanted{Origin: here, ID: test.mediaID}, test.size)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := io.ReadAll(c)
			if err != nil || int64(len(raw)) != c.Size || c.ContentType != "image/png" {
				t.Errorf("%+v: %d bytes, %v", c, len(raw), err)
			}
			got, err := png.Decode(bytes.NewReader(raw))
			if err != nil || got.Bounds().Size() != test.want {
				t.Errorf("%+v: %v, %v", test, got.Bounds(), err)
			}
			c.Close()
		}
		// Three uploads and three thumbnails; the small image is its own.
		if got := files(t, s); len(got) != 6 {
			t.Errorf("kept are %v", got)
		}
		text := save(t, s, upload("no image"))
		if _, err := s.Thumbnail(ctx, media.Wanted{Origin: here, ID: text}, media.Size{Width: 32, Height: 32}); !errors.Is(err, media.ErrNoThumbnail) {
			t.Errorf("of a text: %v", err)
		}
		s.MaxPixels = 800*400 - 1
		if _, err := s.Thumbnail(ctx, media.Wanted{Origin: here, ID: large}, media.Size{Width: 640, Height: 480}); !errors.Is(err, media.ErrTooLarge) {
			t.Errorf("of too many pixels: %v", err)
		}
		c, err := s.Open(ctx, media.Wanted{Origin: here, ID: small})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := os.Remove(c.File.Name()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Open(ctx, media.Wanted{Origin: here, ID: small}); !errors.Is(err, media.ErrNotFound) {
			t.Errorf("without its file: %v", err)
		}
	})
}
