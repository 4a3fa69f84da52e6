package media_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"image"
	"image/color"
	"image/gif"
	_ "image/jpeg" // formats of thumbnails
	_ "image/png"
	"io"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/media"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// movingWebP is an animation of a still WebP of one pixel, on a square canvas.
func movingWebP(t *testing.T, still string, side byte) string {
	t.Helper()
	one, err := base64.StdEncoding.DecodeString(still)
	if err != nil {
		t.Fatal(err)
	}
	chunk := func(name string, data []byte) []byte {
		return append(binary.LittleEndian.AppendUint32([]byte(name), uint32(len(data))), data...)
	}
	frame := chunk("ANMF", append(make([]byte, 16), one[12:]...))
	body := []byte("WEBP")
	body = append(body, chunk("VP8X", []byte{2, 0, 0, 0, side - 1, 0, 0, side - 1, 0, 0})...)
	body = append(body, chunk("ANIM", make([]byte, 6))...)
	body = append(append(body, frame...), frame...)
	return string(chunk("RIFF", body))
}

func movingGIF(t *testing.T, side, frames int) string {
	t.Helper()
	var b bytes.Buffer
	frame := image.NewPaletted(image.Rect(0, 0, side, side), color.Palette{color.Black, color.White})
	g := &gif.GIF{}
	for range frames {
		g.Image, g.Delay = append(g.Image, frame), append(g.Delay, 1)
	}
	if err := gif.EncodeAll(&b, g); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestMovingImages: who asks for an animated thumbnail gets one of what moves; who does not gets its first frame.
func TestMovingImages(t *testing.T) {
	const (
		lossless = "UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA=="
		lossy    = "UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA"
	)
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, ctx := service(t, db), context.Background()
		s.MaxUpload = 2 << 20
		for name, test := range map[string]struct {
			content, contentType string
			moves                bool
		}{
			"GIF":                  {movingGIF(t, 500, 3), "image/gif", true},
			"GIF of one frame":     {movingGIF(t, 500, 1), "image/gif", false},
			"lossless WebP":        {movingWebP(t, lossless, 1), "image/webp", true},
			"lossy WebP":           {movingWebP(t, lossy, 1), "image/webp", true},
			"WebP of a part":       {movingWebP(t, lossy, 9), "image/webp", true},
			"PNG":                  {pngOf(t, 500, 500), "image/png", false},
			"APNG":                 {pngOf(t, 500, 500) + "acTL", "image/png", true},
			"large GIF":            {movingGIF(t, 500, 3) + strings.Repeat("\x00", 1<<20), "image/gif", false},
			"GIF that breaks off":  {movingGIF(t, 500, 3)[:60], "", false},
			"WebP that breaks off": {movingWebP(t, lossy, 1)[:60], "", false},
		} {
			w := media.Wanted{Origin: here, ID: save(t, s, upload(test.content))}
			still, err := s.Thumbnail(ctx, w, media.Size{Width: 320, Height: 240})
			if test.contentType == "" {
				if err == nil {
					t.Errorf("%s: a thumbnail of what is broken", name)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			raw, err := io.ReadAll(still)
			if _, _, decodeErr := image.Decode(bytes.NewReader(raw)); err != nil || decodeErr != nil || still.ContentType == "image/gif" {
				t.Errorf("%s: the still thumbnail is %s: %v, %v", name, still.ContentType, err, decodeErr)
			}
			moving, err := s.Thumbnail(ctx, w, media.Size{Width: 320, Height: 240, Animated: true})
			if err != nil {
				t.Fatal(name, err)
			}
			raw, err = io.ReadAll(moving)
			if original := string(raw) == test.content; err != nil || original != test.moves || test.moves && moving.ContentType != test.contentType {
				t.Errorf("%s: the animated thumbnail is %s, the original: %v; %v", name, moving.ContentType, original, err)
			}
			_, _ = still.Close(), moving.Close()
		}
	})
}
