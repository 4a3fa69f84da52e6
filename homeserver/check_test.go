package homeserver_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/sign"
)

// contents are the names and the contents of all files in a folder.
func contents(t *testing.T, dir string) map[string][sha256.Size]byte {
	t.Helper()
	out := map[string][sha256.Size]byte{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			out[path] = [sha256.Size]byte{}
			return err
		}
		raw, err := os.ReadFile(path)
		out[path] = sha256.Sum256(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestCheckSaysWhatServeRefuses has servers lack what they need: Check says the same as a start, and changes nothing.
func TestCheckSaysWhatServeRefuses(t *testing.T) {
	eachConfig(t, func(t *testing.T, c *config.Config) {
		home := filepath.Dir(c.Server.DataDir)
		all := func() map[string][sha256.Size]byte {
			all := contents(t, home)
			if path, embedded := strings.CutPrefix(c.DatabaseURL(), "sqlite://"); embedded {
				maps.Copy(all, contents(t, filepath.Dir(path)))
				// What is there for a moment only leaves its trace as well.
				if folder, err := os.Stat(filepath.Dir(path)); err == nil {
					all["the database's folder"] = sha256.Sum256([]byte(folder.ModTime().String()))
				}
			}
			return all
		}
		check := func(what string, refused bool) {
			t.Helper()
			before := all()
			_, err := homeserver.Check(t.Context(), c)
			for path, now := range all() {
				if was, there := before[path]; !there || was != now {
					t.Errorf("%s: looking at it changed %s", what, path)
				}
				delete(before, path)
			}
			if len(before) > 0 {
				t.Errorf("%s: looking at it removed %v", what, before)
			}
			if serve := open(c); (err != nil) != refused || (serve != nil) != refused {
				t.Errorf("%s: check says %v, serve %v", what, err, serve)
			} else if refused && !strings.Contains(err.Error(), serve.Error()) && !errors.Is(serve, fs.ErrNotExist) && !strings.Contains(serve.Error(), "folder") {
				t.Errorf("%s: check says %v, serve %v", what, err, serve)
			}
		}
		check("a new server", false)
		check("a server in use", false)
		other := *c // all that is in its database is in the log still
		other.Server.DataDir = filepath.Join(t.TempDir(), "data")
		useFresh(t, &other)
		running, err := homeserver.New(context.Background(), &other, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := homeserver.Check(t.Context(), &other); err != nil {
			t.Errorf("while it runs: %v", err)
		}
		if err := running.Close(); err != nil {
			t.Fatal(err)
		}
		key, err := os.ReadFile(c.SigningKeyFile())
		if err != nil {
			t.Fatal(err)
		}
		for _, broken := range []string{"", "ed25519 a b"} {
			writeFile(t, c.SigningKeyFile(), []byte(broken))
			check("a key that cannot be read", true)
		}
		if err := os.Remove(c.SigningKeyFile()); err != nil {
			t.Fatal(err)
		}
		check("no key", true)
		writeFile(t, c.SigningKeyFile(), key)
		check("the key is there again", false)
		now, err := sign.Load(c.SigningKeyFile())
		if err != nil {
			t.Fatal(err)
		}
		c.Federation.Enabled = true
		check("a server that federates", false)
		c.Server.OldKeys = []config.OldKey{{ID: now.ID, Public: now.Public(), Expired: time.UnixMilli(1)}}
		check("a key that was replaced and is in use", true)
		c.Federation.Enabled, c.Server.OldKeys = false, nil
		c.Server.Name = "two.test"
		check("another name", true)
		c.Server.Name = "one.test"
		right := c.Database.URL
		useFresh(t, c)
		check("no database", true)
		c.Database.URL = right
		check("the database is there again", false)
	})
}

// TestCheckPaths has folders be unusable.
func TestCheckPaths(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "file"), nil)
	for _, p := range []struct {
		data, database string
		right          bool
	}{
		{data: "file"}, {data: "file/data"}, {data: "/proc/data"}, {data: "data", database: "/proc/x.db"},
		{data: "data", database: "none/x.db"}, {data: "data", database: "."}, {data: "deep/data", right: true}, {data: "data", database: "data/x.db", right: true},
	} {
		at := func(path string) string {
			if filepath.IsAbs(path) {
				return path
			}
			return filepath.Join(dir, path)
		}
		c := config.Dev()
		c.Server.Name, c.Federation.Enabled, c.Server.DataDir = "one.test", false, at(p.data)
		if p.database != "" {
			hstest.Database(at(p.database))(c)
		}
		_, err := homeserver.Check(t.Context(), c)
		if serve := open(c); (err == nil) != p.right || (serve == nil) != p.right {
			t.Errorf("%+v: check says %v, serve %v", p, err, serve)
		}
		if err := errors.Join(os.RemoveAll(at("data")), os.RemoveAll(at("deep"))); err != nil {
			t.Fatal(err)
		}
	}
}
