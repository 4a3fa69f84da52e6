package media_test

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/media"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// TestWhoFillsTheCacheLoses: who has most of it fetched loses of it, however old what others had fetched is.
func TestWhoFillsTheCacheLoses(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, ctx := service(t, db), context.Background()
		s.CacheMax = 1000
		fetch := func(user id.UserID, mediaID, content string, age time.Duration) {
			t.Helper()
			s.Remote = &remote{body: content}
			read(t, s, media.Wanted{Origin: there, ID: mediaID, User: user})
			err := db.Update(ctx, func(tx *store.Tx) error { return tx.Media.SetUsed(there, mediaID, time.Now().Add(-age)) })
			if err != nil {
				t.Fatal(err)
			}
		}
		fetch(bob, "B", bytesOf("b", 100), time.Hour)
		for n := range 12 {
			fetch(alice, fmt.Sprint("A", n), bytesOf(fmt.Sprint(n), 100), time.Minute*time.Duration(50-n))
		}
		s.Remote = nil // the other server is gone
		kept := 0
		for n := range 12 {
			if c, err := s.Open(ctx, media.Wanted{Origin: there, ID: fmt.Sprint("A", n), User: alice}); err == nil {
				kept += int(c.Size)
				_ = c.Close()
			} else if n > 10 {
				t.Errorf("the newest: %v", err)
			}
		}
		if kept < 500 || kept > 900 {
			t.Errorf("of who fills the cache, %d of 1000 bytes are kept", kept)
		}
		if got := read(t, s, media.Wanted{Origin: there, ID: "B", User: bob}); got != bytesOf("b", 100) {
			t.Errorf("of who has little, what is kept is %q", got)
		}
	})
}

// TestThumbnailsTakeRoomOfTheCache: what is drawn counts for who had it drawn, also of what was uploaded here, and is drawn
// again when it is asked for.
func TestThumbnailsTakeRoomOfTheCache(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, ctx := service(t, db), context.Background()
		s.CacheMax = 150_000
		noise := rand.New(rand.NewPCG(1, 2))
		var pictures []string
		draw := func(user id.UserID, mediaID string) (size int) {
			t.Helper()
			c, err := s.Thumbnail(ctx, media.Wanted{Origin: here, ID: mediaID, User: user}, media.Size{Width: 96, Height: 96, Crop: true})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			return int(c.Size)
		}
		drawn := 0
		for n := range 12 {
			picture := image.NewGray(image.Rect(0, 0, 97, 97))
			for i := range picture.Pix {
				picture.Pix[i] = byte(noise.Uint32())
			}
			var b bytes.Buffer
			if err := png.Encode(&b, picture); err != nil {
				t.Fatal(err)
			}
			pictures = append(pictures, save(t, s, upload(b.String())))
			if n == 0 {
				draw(bob, pictures[0])
			} else {
				drawn += draw(alice, pictures[n])
			}
		}
		kept := func() (has map[string]int) {
			t.Helper()
			err := db.View(ctx, func(tx *store.Tx) (err error) {
				has, err = tx.Media.CachedBytes()
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return has
		}
		has := kept()
		if drawn < 200_000 || has[string(alice)] > 150_000 || has[string(alice)] < 60_000 || has[string(bob)] == 0 {
			t.Errorf("of %d bytes that were drawn, the cache of 150000 has %v", drawn, has)
		}
		if got := files(t, s); len(got) > 12+150_000/(drawn/11) {
			t.Errorf("%d files are kept", len(got))
		}
		draw(alice, pictures[1]) // again
		if again := kept(); again[string(bob)] != has[string(bob)] {
			t.Errorf("of others, the cache has %v, then %v", has, again)
		}
		err := db.Prune(ctx, func(tx *store.Tx, limit int) (int64, error) { return tx.Media.ForgetAsker(alice, limit) })
		if left := kept(); err != nil || left[string(alice)] != 0 || left[""] == 0 || left[string(bob)] != has[string(bob)] {
			t.Errorf("once a user is forgotten, the cache has %v, %v", left, err)
		}
	})
}
