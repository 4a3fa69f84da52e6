package media

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"image"
	"io"
	"strconv"
	"time"

	"github.com/securecomm/securecomm/homeserver/store"
)

// Size is the thumbnail that is asked for.
type Size struct {
	Width, Height int
	Crop          bool // to the shape of Width and Height; else the whole image, scaled to fit
	Animated      bool // if the image is, and is small enough as it is
}

// sizes are those that thumbnails are made in (Client-Server API, "Thumbnails"), from small to large.
var sizes = []Size{
	{Width: 32, Height: 32, Crop: true},
	{Width: 96, Height: 96, Crop: true},
	{Width: 320, Height: 320, Crop: true},
	{Width: 320, Height: 240},
	{Width: 640, Height: 480},
	{Width: 800, Height: 600},
	{Width: 1600, Height: 1200},
}

// snap finds the smallest size that is not smaller than the one asked for; the largest if there is none. What is to be
// cropped to another shape than a square is scaled, since no one could be asked to keep all shapes.
func snap(want Size) Size {
	if want.Width != want.Height {
		want.Crop = false
	}
	for _, fixed := range sizes {
		if fixed.Crop == want.Crop && fixed.Width >= want.Width && fixed.Height >= want.Height {
			return fixed
		}
	}
	return sizes[len(sizes)-1]
}

// Thumbnail opens a thumbnail of an image, or the image itself where it is no larger than that.
func (s *Service) Thumbnail(ctx context.Context, w Wanted, want Size) (*Content, error) {
	m, err := s.find(ctx, w)
	if err != nil {
		return nil, err
	}
	if want.Animated && m.Size <= maxAnimated {
		contentType, moves, err := s.moves(m.Hash)
		if err != nil {
			return nil, err
		}
		if moves {
			return s.content(store.MediaRow{Hash: m.Hash, Size: m.Size, ContentType: contentType, Name: m.Name})
		}
	}
	fixed := snap(want)
	t, ok, err := s.thumbnail(ctx, m.Hash, fixed)
	if err == nil && !ok && w.Stranger {
		err = ErrNotFound
	}
	if err == nil && !ok {
		t, err = s.makeThumbnail(ctx, w.who(), m.Hash, fixed)
	}
	if err != nil {
		return nil, err
	}
	if t.Hash == m.Hash && m.Name != "" {
		return s.content(store.MediaRow{Hash: t.Hash, Size: t.Size, ContentType: t.ContentType, Name: m.Name})
	}
	return s.content(store.MediaRow{Hash: t.Hash, Size: t.Size, ContentType: t.ContentType, Name: "thumbnail" + extensions[t.ContentType]})
}

var extensions = map[string]string{"image/png": ".png", "image/jpeg": ".jpg"}

func (s *Service) thumbnail(ctx context.Context, source string, size Size) (t store.Thumbnail, ok bool, err error) {
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		t, ok, err = tx.Media.Thumbnail(store.Thumbnail{Source: source, Width: size.Width, Height: size.Height, Crop: size.Crop})
		return err
	})
	return t, ok, err
}

// makeThumbnail makes a thumbnail once for all who ask for it meanwhile.
func (s *Service) makeThumbnail(ctx context.Context, who, source string, size Size) (store.Thumbnail, error) {
	key := source + " " + strconv.Itoa(size.Width) + " " + strconv.Itoa(size.Height) + " " + strconv.FormatBool(size.Crop)
	return s.drawings.do(ctx, key, who, "", func(ctx context.Context) (store.Thumbnail, error) {
		if t, ok, err := s.thumbnail(ctx, source, size); err != nil || ok {
			return t, err // made since it was asked for
		}
		t, err := s.draw(ctx, who, source, size)
		if err == nil && t.Hash != source {
			s.grown(ctx, t.Size)
		}
		return t, err
	})
}

// untilDone is a file that cannot be read any more once its context has ended: decoders know no contexts.
type untilDone struct {
	io.ReadSeeker
	context.Context
}

// Read reads on.
func (u untilDone) Read(p []byte) (int, error) {
	if err := u.Err(); err != nil {
		return 0, err
	}
	return u.ReadSeeker.Read(p)
}

func (s *Service) draw(ctx context.Context, who, source string, size Size) (store.Thumbnail, error) {
	t := store.Thumbnail{
		Source: source, Width: size.Width, Height: size.Height, Crop: size.Crop, AskedBy: who, CreatedAt: time.Now().UnixMilli(),
	}
	f, err := s.open(source)
	if err != nil {
		return t, err
	}
	defer func() { _ = f.Close() }()
	u, err := examine(f, s.MaxPixels)
	if err != nil {
		return t, err
	}
	if err := s.memory.Acquire(ctx, u.cost); err != nil {
		return t, err
	}
	defer s.memory.Release(u.cost)
	u.ReadSeeker = untilDone{u.ReadSeeker, ctx}
	p, err := u.decode()
	if err := cmp.Or(ctx.Err(), err); err != nil {
		return t, err
	}
	if from, to := p.plan(size); p.still && from == p.image.Bounds() && to == from.Size() && p.turn == upright {
		info, err := f.Stat()
		if err != nil {
			return t, fmt.Errorf("thumbnail: %w", err)
		}
		t.Hash, t.Size, t.ContentType = source, info.Size(), p.contentType
	} else {
		var encoded bytes.Buffer
		small := p.turn.apply(scale(p.image, from, to))
		if t.ContentType, err = encode(&encoded, small, p.contentType); err != nil {
			return t, fmt.Errorf("thumbnail: %w", err)
		}
		kept, err := s.write(&encoded, int64(encoded.Len()))
		if err != nil {
			return t, err
		}
		defer s.described(kept)
		t.Hash, t.Size = kept.hash, kept.size
	}
	// Now that it is drawn, it is kept even if nobody waits for it any more.
	err = s.Store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error { return tx.Media.InsertThumbnail(t) })
	return t, err
}

// plan finds which part of the image becomes a thumbnail and how large that is, both before it is turned. Nothing is
// made larger than it was.
func (p *picture) plan(size Size) (from image.Rectangle, to image.Point) {
	from = p.image.Bounds()
	w, h := size.Width, size.Height
	if p.turn.lying() {
		w, h = h, w
	}
	if !size.Crop {
		return from, fit(from.Size(), w, h)
	}
	// The largest part in the middle that has the shape of the thumbnail.
	part := fit(image.Pt(w, h).Mul(1<<12), from.Dx(), from.Dy())
	from.Min = from.Min.Add(from.Size().Sub(part).Div(2))
	from.Max = from.Min.Add(part)
	return from, fit(part, w, h)
}

// fit scales a size down, never up, to fit into another one.
func fit(p image.Point, w, h int) image.Point {
	if p.X <= w && p.Y <= h {
		return p
	}
	if p.X*h > p.Y*w {
		return image.Pt(w, max(1, p.Y*w/p.X))
	}
	return image.Pt(max(1, p.X*h/p.Y), h)
}
