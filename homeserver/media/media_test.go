package media_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"mime"
	"mime/multipart"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/media"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

const (
	here  id.ServerName = "one.test"
	there id.ServerName = "two.test"
	alice id.UserID     = "@alice:one.test"
	bob   id.UserID     = "@bob:one.test"
)

func service(t *testing.T, db *store.DB) *media.Service {
	t.Helper()
	return &media.Service{
		Server: here, Store: db, Dir: filepath.Join(t.TempDir(), "media"), Log: slog.New(slog.DiscardHandler),
		MaxUpload: 1 << 20, MaxRemote: 1 << 20, MaxPixels: 1 << 20,
	}
}

func sqlite(t *testing.T) *store.DB {
	t.Helper()
	return storetest.Open(t, filepath.Join(t.TempDir(), "test.db"))
}

func upload(content string) media.Upload {
	return media.Upload{User: alice, ContentType: "text/plain", Name: "a.txt", Size: -1, Body: strings.NewReader(content)}
}

func save(t *testing.T, s *media.Service, u media.Upload) string {
	t.Helper()
	mediaID, err := s.Save(context.Background(), u)
	if err != nil {
		t.Fatal(err)
	}
	return mediaID
}

func read(t *testing.T, s *media.Service, w media.Wanted) string {
	t.Helper()
	c, err := s.Open(context.Background(), w)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := io.ReadAll(c)
	if err != nil || int64(len(raw)) != c.Size {
		t.Errorf("read %d bytes of %d, %v", len(raw), c.Size, err)
	}
	return string(raw)
}

// files lists the files that are kept, and fails if others than their owner could read them.
func files(t *testing.T, s *media.Service) (names []string) {
	t.Helper()
	err := filepath.WalkDir(s.Dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", d.Name(), info.Mode())
		}
		if !d.IsDir() {
			names = append(names, d.Name())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestSaveAndOpen(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := service(t, db)
		first, second := save(t, s, upload("hello")), save(t, s, upload("hello"))
		if first == second {
			t.Error("two uploads have one ID")
		}
		for _, mediaID := range []string{first, second} {
			if got := read(t, s, media.Wanted{Origin: here, ID: mediaID}); got != "hello" {
				t.Errorf("got %q", got)
			}
		}
		if got := files(t, s); len(got) != 1 {
			t.Errorf("equal content is kept in %v", got)
		}
		for _, w := range []media.Wanted{
			{Origin: here, ID: "unknown"}, {Origin: here, ID: "../" + first}, {Origin: here}, {Origin: there, ID: first}, {Origin: here, ID: strings.Repeat("a", 256)},
		} {
			if _, err := s.Open(context.Background(), w); !errors.Is(err, media.ErrNotFound) {
				t.Errorf("%+v: %v", w, err)
			}
		}
	})
}

func TestUploadIsBounded(t *testing.T) {
	s := service(t, sqlite(t))
	s.MaxUpload = 5
	save(t, s, upload("12345"))
	announced := upload("1")
	announced.Size = 6
	for _, u := range []media.Upload{upload("123456"), announced} {
		if _, err := s.Save(context.Background(), u); !errors.Is(err, media.ErrTooLarge) {
			t.Errorf("got %v", err)
		}
	}
	broken := upload("")
	broken.Body = io.MultiReader(strings.NewReader("12"), brokenReader{})
	if _, err := s.Save(context.Background(), broken); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
	if got := files(t, s); len(got) != 1 {
		t.Errorf("refused uploads left %v", got)
	}
}

var errBroken = errors.New("broken")

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

// TestNearlyFullDisksTakeNothing: media leaves some room on its disk to the database and everybody else.
func TestNearlyFullDisksTakeNothing(t *testing.T) {
	s := service(t, sqlite(t))
	s.KeepFree = math.MaxInt64
	if _, err := s.Save(context.Background(), upload("x")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("kept on a disk without room: %v", err)
	}
	s.KeepFree = 1
	save(t, s, upload("x"))
	s.MaxUpload = 50 << 20
	late := upload("")
	late.Body = io.MultiReader(strings.NewReader(strings.Repeat("x", 3<<20)), filling{s}, strings.NewReader(strings.Repeat("x", 3<<20)))
	if _, err := s.Save(context.Background(), late); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("taken to the end on a disk that others filled meanwhile: %v", err)
	}
}

// filling is read as nothing, and leaves no room on the disk from then on.
type filling struct{ s *media.Service }

func (f filling) Read([]byte) (int, error) {
	f.s.KeepFree = math.MaxInt64 / 2
	return 0, io.EOF
}

func TestUploadLater(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, ctx := service(t, db), context.Background()
		mediaID, expires, err := s.Reserve(ctx, alice)
		if err != nil || time.Until(expires) < time.Hour {
			t.Fatal(expires, err)
		}
		w := media.Wanted{Origin: here, ID: mediaID}
		if _, err := s.Open(ctx, w); !errors.Is(err, media.ErrNotYetUploaded) {
			t.Errorf("before the upload: %v", err)
		}
		other := upload("x")
		other.User = bob
		if err := s.Fill(ctx, mediaID, other); !errors.Is(err, media.ErrNotYours) {
			t.Errorf("another's upload: %v", err)
		}
		if err := s.Fill(ctx, "unknown", upload("x")); !errors.Is(err, media.ErrNotFound) {
			t.Errorf("unknown ID: %v", err)
		}
		w.Wait = time.Minute
		var waiting sync.WaitGroup
		for range 3 {
			waiting.Go(func() {
				if got := read(t, s, w); got != "late" {
					t.Errorf("got %q", got)
				}
			})
		}
		if err := s.Fill(ctx, mediaID, upload("late")); err != nil {
			t.Fatal(err)
		}
		waiting.Wait()
		if err := s.Fill(ctx, mediaID, upload("again")); !errors.Is(err, media.ErrOverwrite) {
			t.Errorf("second upload: %v", err)
		}
	})
}

func TestPendingIsBounded(t *testing.T) {
	s, ctx := service(t, sqlite(t)), context.Background()
	for range 100 {
		if _, _, err := s.Reserve(ctx, alice); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.Reserve(ctx, alice); !errors.Is(err, media.ErrTooManyPending) {
		t.Errorf("one too many: %v", err)
	}
	if _, _, err := s.Reserve(ctx, bob); err != nil {
		t.Errorf("another user: %v", err)
	}
}

// remote is another server with one piece of media.
type remote struct {
	calls   atomic.Int32
	body    string
	err     error
	bodyErr error
	release chan struct{} // the download ends when it is closed
}

func (r *remote) Download(_ context.Context, _ id.ServerName, _ string, _ int64) (*media.RemoteFile, error) {
	r.calls.Add(1)
	if r.err != nil {
		return nil, r.err
	}
	if r.release != nil {
		<-r.release
	}
	var body io.Reader = strings.NewReader(r.body)
	if r.bodyErr != nil {
		body = io.MultiReader(body, errorReader{r.bodyErr})
	}
	return &media.RemoteFile{ContentType: "image/png\r\nX: y", ContentDisposition: `inline; filename="../../etc/passwd"`, Body: io.NopCloser(body)}, nil
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestRemoteMedia(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, ctx := service(t, db), context.Background()
		from := &remote{body: "far", release: make(chan struct{})}
		s.Remote = from
		w := media.Wanted{Origin: there, ID: "M"}
		local := w
		local.LocalOnly = true
		if _, err := s.Open(ctx, local); !errors.Is(err, media.ErrNotFound) || from.calls.Load() != 0 {
			t.Errorf("%v after %d calls", err, from.calls.Load())
		}
		// One who goes away must not keep the others from getting it.
		impatient, leave := context.WithCancel(ctx)
		gone := make(chan error)
		go func() {
			_, err := s.Open(impatient, w)
			gone <- err
		}()
		leave()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				if got := read(t, s, w); got != "far" {
					t.Errorf("got %q", got)
				}
			})
		}
		close(from.release)
		all.Wait()
		if got := read(t, s, local); got != "far" {
			t.Errorf("from the cache: %q", got)
		}
		c, err := s.Open(ctx, w)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if c.ContentType != "application/octet-stream" || c.Name != "passwd" {
			t.Errorf("got %+v", c)
		}
		if n := from.calls.Load(); n > 2 { // one may have been over before those who waited came
			t.Errorf("the other server was asked %d times", n)
		}
	})
}

func TestRemoteErrors(t *testing.T) {
	s := service(t, sqlite(t))
	s.MaxRemote = 3
	for i, test := range []struct {
		from *remote
		want error
	}{
		{&remote{err: media.ErrNotFound}, media.ErrNotFound},
		{&remote{err: media.ErrNotYetUploaded}, media.ErrNotYetUploaded},
		{&remote{err: media.ErrRemoteTooLarge}, media.ErrRemoteTooLarge},
		{&remote{err: errBroken}, media.ErrRemote},
		{&remote{body: "1", bodyErr: errBroken}, media.ErrRemote},
		{&remote{body: "1", bodyErr: media.ErrRemoteTooLarge}, media.ErrRemoteTooLarge},
		{&remote{body: "1234"}, media.ErrRemoteTooLarge},
		{&remote{body: "123"}, nil},
	} {
		s.Remote = test.from
		_, err := s.Open(context.Background(), media.Wanted{Origin: there, ID: fmt.Sprint("M", i)})
		if !errors.Is(err, test.want) {
			t.Errorf("%d: got %v, want %v", i, err, test.want)
		}
	}
}

func TestPrune(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, ctx := service(t, db), context.Background()
		s.Remote = &remote{body: "far"}
		s.Retention = -time.Minute // of an hour to come: the clock need not move in this test
		kept := save(t, s, upload("kept"))
		pending, _, err := s.Reserve(ctx, alice)
		if err != nil {
			t.Fatal(err)
		}
		cached := media.Wanted{Origin: there, ID: "M"}
		read(t, s, cached)
		left := filepath.Join(s.Dir, "tmp", "upload-left")
		if err := os.WriteFile(left, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Prune(ctx); err != nil {
			t.Fatal(err)
		}
		if got := files(t, s); len(got) != 3 {
			t.Errorf("young files were removed, left are %v", got)
		}
		old := time.Now().Add(-2 * time.Hour)
		err = filepath.WalkDir(s.Dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				err = os.Chtimes(path, old, old)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Prune(ctx); err != nil {
			t.Fatal(err)
		}
		if got := files(t, s); len(got) != 1 {
			t.Errorf("left are %v", got)
		}
		if got := read(t, s, media.Wanted{Origin: here, ID: kept}); got != "kept" {
			t.Errorf("got %q", got)
		}
		cached.LocalOnly = true
		if _, err := s.Open(ctx, cached); !errors.Is(err, media.ErrNotFound) {
			t.Errorf("cached media that nobody uses: %v", err)
		}
		if err := s.Fill(ctx, pending, upload("late")); err != nil {
			t.Errorf("an upload within its day: %v", err)
		}
	})
}

func TestDisposition(t *testing.T) {
	for _, test := range []struct{ contentType, own, asked, want string }{
		{"text/plain", "", "", "inline"},
		{"Text/Plain; charset=utf-8", "", "", "inline"},
		{"text/html", "", "", "attachment"},
		{"image/svg+xml", "a.svg", "", `attachment; filename=a.svg`},
		{"broken", "", "", "attachment"},
		{"image/png", "name;with;semicolons", "", `inline; filename="name;with;semicolons"`},
		{"image/png", "\U0001F414", "", `inline; filename*=utf-8''%F0%9F%90%94`},
		{"image/png", "own", "☕", `inline; filename*=utf-8''%E2%98%95`},
		{"image/png", "own", `..\..\x"` + "\r\n.png", `inline; filename="x\".png"`},
	} {
		c := &media.Content{ContentType: test.contentType, Name: test.own}
		if got := c.Disposition(test.asked); got != test.want {
			t.Errorf("%+v: got %s", test, got)
		}
	}
}

func TestServeFederation(t *testing.T) {
	s := service(t, sqlite(t))
	mediaID := save(t, s, upload("hello"))
	w := httptest.NewRecorder()
	if err := s.ServeFederation(w, httptest.NewRequest("GET", "/", nil), there, mediaID, false); err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(w.Header().Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" {
		t.Fatal(kind, err)
	}
	parts := multipart.NewReader(bytes.NewReader(w.Body.Bytes()), params["boundary"])
	for _, want := range []struct{ kind, disposition, body string }{{"application/json", "", "{}"}, {"text/plain", "inline; filename=a.txt", "hello"}} {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(part)
		if err != nil || string(body) != want.body || part.Header.Get("Content-Type") != want.kind || part.Header.Get("Content-Disposition") != want.disposition {
			t.Errorf("got %q, %v, %v", body, part.Header, err)
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("there is a third part, or %v", err)
	}
	for uri, want := range map[string]error{"/?timeout_ms=x": id.ErrInvalid, "/": id.ErrInvalid, "/?width=-1&height=2": id.ErrInvalid} {
		if err := s.ServeFederation(w, httptest.NewRequest("GET", uri, nil), there, mediaID, true); !errors.Is(err, want) {
			t.Errorf("%s: %v", uri, err)
		}
	}
	if err := s.ServeFederation(w, httptest.NewRequest("GET", "/?timeout_ms=0", nil), there, "unknown", false); !errors.Is(err, media.ErrNotFound) {
		t.Errorf("unknown media: %v", err)
	}
}

// TestOurFaultsAreNotTheirs: a disk that takes nothing is no fault of the server that the media is of.
func TestOurFaultsAreNotTheirs(t *testing.T) {
	s := service(t, sqlite(t))
	s.Remote = &remote{body: "far"}
	if err := os.WriteFile(s.Dir, nil, 0o600); err != nil { // where the folder should be
		t.Fatal(err)
	}
	if _, err := s.Open(context.Background(), media.Wanted{Origin: there, ID: "M"}); err == nil || errors.Is(err, media.ErrRemote) {
		t.Errorf("got %v", err)
	}
}
