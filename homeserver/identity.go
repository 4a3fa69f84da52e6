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

// inUse is a file in the data folder of a server that has a database.
const inUse = "in-use"

func (s *Server) inUse() string { return filepath.Join(s.Config.Server.DataDir, inUse) }

// checkFile refuses an embedded database whose file is gone, before a new one is made in its place: what SQLite left beside
// the old one may be needed yet.
func (s *Server) checkFile(path string) error {
	if _, err := os.Stat(s.inUse()); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if info, err := os.Stat(path); err == nil && info.Size() > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return s.databaseLost(path)
}

func (s *Server) databaseLost(where string) error {
	return fmt.Errorf("%w: %s. Restore it from a backup. If a new server is meant to begin here, remove the file %s and, unless its name is new, too, make a new key as for server.old_keys",
		ErrDatabaseLost, where, s.inUse())
}

// claim makes sure that a database stays with the server name and the signing key that it began with: the name is part of
// every user and room in it, and others have no other proof of who sent its events. A key that is listed under
// server.old_keys may have been replaced.
func (s *Server) claim(ctx context.Context) error {
	key, err := sign.Load(s.Config.SigningKeyFile())
	missing := errors.Is(err, os.ErrNotExist)
	if err != nil && !missing {
		return fmt.Errorf("the server's signing key: %w", err)
	}
	show := func(k sign.Key) string {
		return string(k.ID) + " " + base64.RawStdEncoding.EncodeToString(k.Public())
	}
	_, err = os.Stat(s.inUse())
	used := err == nil
	var owner, known string
	err = s.Store.Update(ctx, func(tx *store.Tx) (err error) {
		if owner, err = tx.Fact(nameFact); err != nil || owner != "" {
			if err == nil {
				known, err = tx.Fact(keyFact)
			}
			return err
		}
		if used {
			return s.databaseLost(s.Config.Database.URL.String())
		}
		owner = string(s.Config.Server.Name)
		return tx.SetFact(nameFact, owner)
	})
	switch {
	case err != nil:
		return err
	case owner != string(s.Config.Server.Name):
		return fmt.Errorf("the database belongs to the server %q, not to %q: set server.name to that, or use another database", owner, s.Config.Server.Name)
	case missing && known == "" && used && len(s.Config.Server.OldKeys) == 0, known != "" && (missing || known != show(key)) && !s.retired(known):
		return s.keyLost(known)
	}
	if s.Key, err = sign.LoadOrCreate(s.Config.SigningKeyFile()); err != nil {
		return fmt.Errorf("the server's signing key: %w", err)
	}
	if shown := show(s.Key); shown != known {
		if err := s.Store.Update(ctx, func(tx *store.Tx) error { return tx.SetFact(keyFact, shown) }); err != nil {
			return err
		}
	}
	if used {
		return nil
	}
	const text = "This is the data folder of a server in use. With this file in it, the server does not start without its database.\n"
	return os.WriteFile(s.inUse(), []byte(text), 0o600)
}

// retired says whether a known key, as the fact has it, is one of server.old_keys.
func (s *Server) retired(known string) bool {
	name, _, _ := strings.Cut(known, " ")
	return slices.ContainsFunc(s.Config.Server.OldKeys, func(k config.OldKey) bool { return k.ID == id.KeyID(name) })
}

func (s *Server) keyLost(known string) error {
	entry := "its ID, its public key and when it was replaced"
	if known != "" {
		entry = `"` + known + ` EXPIRED_TS"`
	}
	return fmt.Errorf("%w: the database was served with another one than %s. Restore that file from a backup. If the key is lost or replaced for good, put %s under server.old_keys",
		ErrKeyLost, s.Config.SigningKeyFile(), entry)
}
