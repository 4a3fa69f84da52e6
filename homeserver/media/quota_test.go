package media_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/media"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

// bytesOf is so much content, which differs by name.
func bytesOf(name string, size int) string { return name + strings.Repeat("x", size-len(name)) }

// TestUsersHaveAQuota: who has uploaded as much as one user can uploads no more, in whatever way; others do.
func TestUsersHaveAQuota(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, ctx := service(t, db), context.Background()
		s.UserQuota = 100
		later, _, err := s.Reserve(ctx, alice)
		if err != nil {
			t.Fatal(err)
		}
		save(t, s, upload(bytesOf("a", 60)))
		refused := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, media.ErrQuota) {
				t.Errorf("%s: %v", what, err)
			}
			if got := files(t, s); len(got) != 1 {
				t.Errorf("%s left %v", what, got)
			}
		}
		_, err = s.Save(ctx, upload(bytesOf("b", 41)))
		refused("a byte too many", err)
		announced := media.Upload{User: alice, Size: 41, Body: errorReader{errors.New("it is read")}}
		_, err = s.Save(ctx, announced)
		refused("a byte too many, as announced", err)
		refused("a byte too many for a media ID", s.Fill(ctx, later, upload(bytesOf("c", 41))))
		if err := s.Fill(ctx, later, upload(bytesOf("d", 40))); err != nil {
			t.Errorf("the last bytes: %v", err)
		}
		if _, err := s.Save(ctx, upload("e")); !errors.Is(err, media.ErrQuota) {
			t.Errorf("when nothing is left: %v", err)
		}
		other := upload(bytesOf("f", 100))
		other.User = bob
		save(t, s, other)
	})
}

// TestUploadsAtOnceShareTheQuota: what is under way counts, here and in another process.
func TestUploadsAtOnceShareTheQuota(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, ctx := service(t, db), context.Background()
		s.UserQuota = 100
		body, feed := io.Pipe()
		first := make(chan error)
		go func() {
			_, err := s.Save(ctx, media.Upload{User: alice, Size: -1, Body: body})
			first <- err
		}()
		if _, err := io.WriteString(feed, bytesOf("a", 60)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(feed, "b"); err != nil { // what came before is counted
			t.Fatal(err)
		}
		for _, size := range []int64{-1, 41} {
			u := upload(bytesOf("c", 41))
			u.Size = size
			if _, err := s.Save(ctx, u); !errors.Is(err, media.ErrQuota) {
				t.Errorf("beside another one: %v", err)
			}
		}
		elsewhere := service(t, db)
		elsewhere.UserQuota = 100
		save(t, elsewhere, upload(bytesOf("d", 41)))
		if err := feed.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-first; !errors.Is(err, media.ErrQuota) {
			t.Errorf("what another process was faster with: %v", err)
		}
		if got := files(t, s); len(got) != 0 {
			t.Errorf("what was refused in the end left %v", got)
		}
		save(t, s, upload(bytesOf("e", 59))) // what was refused does not count
	})
}

// TestWhoGoesAwayIsCharged: content that has arrived counts, though nobody waits for its name.
func TestWhoGoesAwayIsCharged(t *testing.T) {
	s := service(t, sqlite(t))
	s.UserQuota = 100
	ctx, leave := context.WithCancel(context.Background())
	u := upload("")
	u.Body = io.MultiReader(strings.NewReader(bytesOf("a", 60)), leaving{leave})
	if _, err := s.Save(ctx, u); err != nil {
		t.Errorf("%v", err)
	}
	if _, err := s.Save(context.Background(), upload(bytesOf("b", 60))); !errors.Is(err, media.ErrQuota) {
		t.Errorf("more than the quota, since its user went away: %v", err)
	}
}

// leaving is the end of a body, whose sender goes away then.
type leaving struct{ leave func() }

func (l leaving) Read([]byte) (int, error) {
	l.leave()
	return 0, io.EOF
}

// TestTheCacheIsBounded: what was not asked for longest makes room for what comes, but for files that uploads have as well.
func TestTheCacheIsBounded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, ctx := service(t, db), context.Background()
		s.CacheMax = 100
		w := func(n int) media.Wanted { return media.Wanted{Origin: there, ID: fmt.Sprint("M", n), LocalOnly: true} }
		fetch := func(n int, content string) {
			t.Helper()
			s.Remote = &remote{body: content}
			wanted := w(n)
			wanted.LocalOnly = false
			read(t, s, wanted)
			err := db.Update(ctx, func(tx *store.Tx) error {
				return tx.Media.SetUsed(there, wanted.ID, time.Now().Add(time.Duration(n-1000)*time.Minute))
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		own := save(t, s, upload(bytesOf("1", 30)))
		for n := range 3 {
			fetch(n, bytesOf(fmt.Sprint(n), 30))
		}
		err := db.Update(ctx, func(tx *store.Tx) error { return tx.Media.SetUsed(there, "M0", time.Now()) })
		if err != nil {
			t.Fatal(err)
		}
		fetch(3, bytesOf("3", 30)) // one has to go
		fetch(4, bytesOf("4", 30)) // another one
		for n, there := range []bool{true, false, false, true, true} {
			c, err := s.Open(ctx, w(n))
			if (err == nil) != there {
				t.Errorf("%d: %v", n, err)
			}
			if err == nil {
				_ = c.Close()
			}
		}
		if got := read(t, s, media.Wanted{Origin: here, ID: own}); got != bytesOf("1", 30) {
			t.Errorf("an upload whose content was cached, too, is %q", got)
		}
		if got := files(t, s); len(got) != 4 {
			t.Errorf("kept are %v", got)
		}

		// After a start it is counted what is there.
		again := &media.Service{Server: here, Store: db, Dir: s.Dir, Log: s.Log, MaxUpload: 1 << 20, MaxRemote: 1 << 20, MaxPixels: 1, CacheMax: 50}
		if err := again.Prune(ctx); err != nil {
			t.Fatal(err)
		}
		if got := files(t, s); len(got) != 2 {
			t.Errorf("with a smaller cache, kept are %v", got)
		}
	})
}
