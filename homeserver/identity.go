package homeserver

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/media"
	"github.com/securecomm/securecomm/homeserver/sign"
	"github.com/securecomm/securecomm/homeserver/store"
)

// A server is its database and its signing key. One of them alone is no new server: most likely the other one was lost,
// or is looked for in the wrong place.
var (
	// ErrKeyLost says that the database knows the server by another signing key than the one that is there, if there is one.
	ErrKeyLost = errors.New("the server's signing key is not there")
	// ErrDatabaseLost says that nothing is in the database, while the data folder is that of a server in use.
	ErrDatabaseLost = errors.New("the server's database is gone, or empty")
)

// Facts of the database about the server that it belongs to.
const (
	nameFact = "server_name"
	keyFact  = "signing_key" // the key's ID and its public half, as server.old_keys has them
)

// Files in the data folder.
const (
	inUseFile = "in-use"     // of a server that has a database
	anewFile  = "new-server" // made by whoever means a new server to begin in a folder that looks used; removed by the server
)

// exists says whether there is a file, or folder.
func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// inUse says whether a data folder is that of a server in use. A server that did not say so yet has left its key and media.
func inUse(c *config.Config) (bool, error) {
	if anew, err := exists(filepath.Join(c.Server.DataDir, anewFile)); err != nil || anew {
		return false, err
	}
	for _, path := range []string{filepath.Join(c.Server.DataDir, inUseFile), c.SigningKeyFile()} {
		if there, err := exists(path); err != nil || there {
			return there, err
		}
	}
	return media.Any(c.MediaDir())
}

// checkFile refuses an embedded database whose file is gone, before a new one is made in its place: what SQLite left beside
// the old one may be needed yet.
func checkFile(c *config.Config, path string) error {
	if used, err := inUse(c); err != nil || !used {
		return err
	}
	if info, err := os.Stat(path); err == nil && info.Size() > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return databaseLost(c, path)
}

func databaseLost(c *config.Config, where string) error {
	return fmt.Errorf("%w: %s. Restore it from a backup. If a new server is meant to begin here, make an empty file %s and, unless the key was brought for that or its name is new, too, move the key away as for server.old_keys",
		ErrDatabaseLost, where, filepath.Join(c.Server.DataDir, anewFile))
}

// identity is what a data folder has of its server.
type identity struct {
	config        *config.Config
	key           sign.Key
	missing, used bool // the key; the folder
}

func identityOf(c *config.Config) (identity, error) {
	key, err := sign.Load(c.SigningKeyFile())
	i := identity{config: c, key: key, missing: errors.Is(err, os.ErrNotExist)}
	if err != nil && !i.missing {
		return i, fmt.Errorf("the server's signing key: %w", err)
	}
	i.used, err = inUse(c)
	return i, err
}

// shown is a key as a fact has it.
func shown(k sign.Key) string {
	return string(k.ID) + " " + base64.RawStdEncoding.EncodeToString(k.Public())
}

// refuse makes sure that a database stays with the server name and the signing key that it began with: the name is part of
// every user and room in it, and others have no other proof of who sent its events. A key that is listed under
// server.old_keys may have been replaced. The database's facts are empty if it is new.
func (i identity) refuse(owner, known string) error {
	c := i.config
	switch {
	case owner == "" && i.used:
		return databaseLost(c, config.DatabaseURL(c.DatabaseURL()).String())
	case owner == "":
		return nil
	case owner != string(c.Server.Name):
		return fmt.Errorf("the database belongs to the server %q, not to %q: set server.name to that, or use another database", owner, c.Server.Name)
	case i.missing && known == "" && i.used && len(c.Server.OldKeys) == 0, known != "" && (i.missing || known != shown(i.key)) && !retired(c, known):
		return keyLost(c, known)
	}
	return nil
}

// claim takes the database for the server, or refuses it.
func (s *Server) claim(ctx context.Context) error {
	is, err := identityOf(s.Config)
	if err != nil {
		return err
	}
	var known string
	err = s.Store.Update(ctx, func(tx *store.Tx) error {
		owner, err := tx.Fact(nameFact)
		if err == nil {
			known, err = tx.Fact(keyFact)
		}
		if err == nil {
			err = is.refuse(owner, known)
		}
		if err != nil || owner != "" {
			return err
		}
		return tx.SetFact(nameFact, string(s.Config.Server.Name))
	})
	if err != nil {
		return err
	}
	if s.Key, err = sign.LoadOrCreate(s.Config.SigningKeyFile()); err != nil {
		return fmt.Errorf("the server's signing key: %w", err)
	}
	if now := shown(s.Key); now != known {
		if err := s.Store.Update(ctx, func(tx *store.Tx) error { return tx.SetFact(keyFact, now) }); err != nil {
			return err
		}
	}
	return s.settle()
}

// settle has the data folder say that it is in use.
func (s *Server) settle() error {
	path := filepath.Join(s.Config.Server.DataDir, inUseFile)
	const text = "This is the data folder of a server in use. With this file in it, the server does not start without its database.\n"
	if there, err := exists(path); err != nil {
		return err
	} else if !there {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(s.Config.Server.DataDir, anewFile)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// checkOldKeys refuses the key that the server signs with as one that was replaced.
func checkOldKeys(c *config.Config, now sign.Key) error {
	if c.Federation.Enabled && slices.ContainsFunc(c.Server.OldKeys, func(k config.OldKey) bool { return k.ID == now.ID }) {
		return fmt.Errorf("server.old_keys: %s is the key that the server signs with now", now.ID)
	}
	return nil
}

// retired says whether a known key, as the fact has it, is one of server.old_keys.
func retired(c *config.Config, known string) bool {
	name, _, _ := strings.Cut(known, " ")
	return slices.ContainsFunc(c.Server.OldKeys, func(k config.OldKey) bool { return k.ID == id.KeyID(name) })
}

func keyLost(c *config.Config, known string) error {
	entry := "its ID, its public key and when it was replaced"
	if known != "" {
		entry = `"` + known + ` EXPIRED_TS"`
	}
	return fmt.Errorf("%w: the database was served with another one than %s. Restore that file from a backup. If the key is lost or replaced for good, put %s under server.old_keys",
		ErrKeyLost, c.SigningKeyFile(), entry)
}
