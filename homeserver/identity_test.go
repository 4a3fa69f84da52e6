package homeserver_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver"
	"github.com/securecomm/securecomm/homeserver/hstest"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
	"github.com/securecomm/securecomm/homeserver/waittest"
)

// eachConfig runs a test with the configuration of a server on each database.
func eachConfig(t *testing.T, test func(t *testing.T, c *config.Config)) {
	storetest.EachURL(t, func(t *testing.T, address string) {
		c := config.Dev()
		c.Server.Name, c.Server.DataDir, c.Federation.Enabled = "one.test", filepath.Join(t.TempDir(), "data"), false
		hstest.Database(address)(c)
		test(t, c)
	})
}

// open starts a server and stops it.
func open(c *config.Config) error {
	s, err := homeserver.New(context.Background(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return s.Close()
}

// TestLostSigningKey has a key go, and another one come in its place.
func TestLostSigningKey(t *testing.T) {
	eachConfig(t, func(t *testing.T, c *config.Config) {
		if err := open(c); err != nil {
			t.Fatal(err)
		}
		key, err := os.ReadFile(c.SigningKeyFile())
		if err != nil {
			t.Fatal(err)
		}
		other := config.Dev()
		other.Server.Name, other.Server.DataDir, other.Federation.Enabled = "one.test", filepath.Join(t.TempDir(), "other"), false
		if err := open(other); err != nil {
			t.Fatal(err)
		}
		foreign, err := os.ReadFile(other.SigningKeyFile())
		if err != nil {
			t.Fatal(err)
		}
		keyName := regexp.MustCompile(`ed25519:\w+`)
		namesake := keyName.ReplaceAll(foreign, keyName.Find(key)) // another key by the name of ours
		for _, there := range [][]byte{nil, foreign, namesake} {
			if err := os.Remove(c.SigningKeyFile()); err != nil {
				t.Fatal(err)
			}
			if there != nil {
				writeFile(t, c.SigningKeyFile(), there)
			}
			if err := open(c); !errors.Is(err, homeserver.ErrKeyLost) || !strings.Contains(err.Error(), "server.old_keys") {
				t.Errorf("a start with the key gone: %v", err)
			}
			writeFile(t, c.SigningKeyFile(), key)
			if err := open(c); err != nil {
				t.Errorf("a start with the key restored: %v", err)
			}
		}
		// It is meant: the entry is in the error.
		if err := os.Remove(c.SigningKeyFile()); err != nil {
			t.Fatal(err)
		}
		text := open(c).Error()
		name := text[strings.Index(text, `"ed25519:`)+1:]
		old, err := config.Load(config.Options{Env: []string{"SECURECOMM_SERVER_OLD_KEYS=" + strings.Replace(name[:strings.Index(name, `"`)], "EXPIRED_TS", "1700000000000", 1)}})
		if err != nil {
			t.Fatal(err)
		}
		c.Server.OldKeys = old.Server.OldKeys
		for range 2 {
			if err := open(c); err != nil {
				t.Errorf("a start with a new key: %v", err)
			}
		}
	})
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestLostDatabase has the database of a data folder in use go, be cut to nothing, and be another one.
func TestLostDatabase(t *testing.T) {
	eachConfig(t, func(t *testing.T, c *config.Config) {
		if err := open(c); err != nil {
			t.Fatal(err)
		}
		right := c.Database.URL
		if path, embedded := strings.CutPrefix(string(right), "sqlite://"); embedded {
			for _, lose := range []func() error{func() error { return os.Truncate(path, 0) }, func() error { return os.Remove(path) }} {
				if err := lose(); err != nil {
					t.Fatal(err)
				}
				before, _ := os.ReadDir(filepath.Dir(path))
				if err := open(c); !errors.Is(err, homeserver.ErrDatabaseLost) {
					t.Errorf("a start without the database: %v", err)
				}
				if after, _ := os.ReadDir(filepath.Dir(path)); len(after) != len(before) {
					t.Errorf("a new database was made: %v", after)
				}
				if info, err := os.Stat(path); err == nil && info.Size() > 0 {
					t.Errorf("a new database was made of what was left: %d bytes", info.Size())
				}
			}
		}
		useFresh(t, c)
		if err := open(c); !errors.Is(err, homeserver.ErrDatabaseLost) {
			t.Errorf("a start with an empty database: %v", err)
		}
		// Each thing that it leaves says alone that it is in use.
		in := func(name string) string { return filepath.Join(c.Server.DataDir, name) }
		if err := os.MkdirAll(in("media/ab"), 0o700); err != nil {
			t.Fatal(err)
		}
		traces := []string{in("in-use"), c.SigningKeyFile(), in("media")}
		for i, alone := range traces {
			others := slices.Delete(slices.Clone(traces), i, i+1)
			for _, other := range others {
				if err := os.Rename(other, other+".away"); err != nil {
					t.Fatal(err)
				}
			}
			if err := open(c); !errors.Is(err, homeserver.ErrDatabaseLost) {
				t.Fatalf("a start with an empty database beside %s: %v", alone, err)
			}
			for _, other := range others {
				if _, err := os.Stat(other); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("a start that was refused has made %s: %v", other, err)
				}
				if err := os.Rename(other+".away", other); err != nil {
					t.Fatal(err)
				}
			}
		}
		writeFile(t, in("new-server"), nil)
		for range 2 {
			if err := open(c); err != nil {
				t.Errorf("a new server that is meant: %v", err)
			}
			if _, err := os.Stat(in("new-server")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("that it is meant holds for the next time, too: %v", err)
			}
		}
		if err := os.RemoveAll(c.Server.DataDir); err != nil {
			t.Fatal(err)
		}
		useFresh(t, c)
		if err := os.MkdirAll(in("media/lost+found"), 0o700); err != nil { // a file system of its own
			t.Fatal(err)
		}
		if err := open(c); err != nil {
			t.Errorf("a new server: %v", err)
		}
	})
}

// useFresh has a configuration use another database, which is empty.
func useFresh(t *testing.T, c *config.Config) {
	t.Helper()
	address := filepath.Join(t.TempDir(), "fresh.db")
	if !strings.HasPrefix(c.DatabaseURL(), "sqlite:") {
		address = storetest.Postgres(t)
	}
	hstest.Database(address)(c)
}

// TestOneProcessOnPostgres has a second server come, and the first one lose its connection.
func TestOneProcessOnPostgres(t *testing.T) {
	address := storetest.Postgres(t)
	s := hstest.New(t, hstest.Database(address))
	c := config.Dev()
	c.Server.Name, c.Server.DataDir, c.Federation.Enabled = s.Name, t.TempDir(), false
	hstest.Database(address)(c)
	if err := open(c); !errors.Is(err, homeserver.ErrInUse) {
		t.Errorf("the second got %v", err)
	}
	nobody := &hstest.User{Server: s}
	release := storetest.TakeLock(t, address, 7305502)
	waittest.Until(t, "refused", func() bool {
		status, _ := nobody.Do("GET", "/versions", nil)
		return status == http.StatusServiceUnavailable
	})
	release()
	waittest.Until(t, "served again", func() bool { status, _ := nobody.Do("GET", "/versions", nil); return status == http.StatusOK })
}
