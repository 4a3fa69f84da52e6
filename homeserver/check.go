package homeserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Check looks at what a configuration names, besides the configuration itself: the files of TLS, those of certificate
// authorities, the data folder and the database. It tells what New would refuse, and changes nothing. soon is what is right today and has to be seen to.
func Check(ctx context.Context, c *config.Config) (soon []string, err error) {
	var errs []error
	note := func(key string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	if c.TLS.Mode == config.TLSFiles {
		ends, err := certificateEnd(c)
		note("tls.cert and tls.key", err)
		if err == nil && time.Until(ends) < certificateSoon {
			soon = append(soon, "the certificate of tls.cert ends soon, on "+ends.Format(time.DateOnly))
		}
	}
	_, err = c.Federation.RootCAs()
	note("federation.ca_files", err)
	folder := checkFolder(c.Server.DataDir)
	note("server.data_dir", folder)
	if folder == nil {
		is, err := identityOf(c)
		if err == nil && !is.missing {
			err = checkOldKeys(c, is.key)
		}
		note("the signing key", err)
		if err == nil {
			owner, known, err := checkDatabase(ctx, c)
			note("database.url", err)
			if err == nil {
				note("the database and the signing key", is.refuse(owner, known))
			}
		}
	}
	return soon, errors.Join(errs...)
}

// certificateEnd is until when the certificate in the files is valid.
func certificateEnd(c *config.Config) (time.Time, error) {
	pair, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key)
	if err != nil {
		return time.Time{}, err
	}
	if ends := pair.Leaf.NotAfter; time.Now().Before(ends) {
		return ends, nil
	}
	return time.Time{}, fmt.Errorf("the certificate has ended on %s", pair.Leaf.NotAfter.Format(time.DateOnly))
}

// checkFolder says what keeps a folder from being used or, if it is not there, from being made.
func checkFolder(path string) error {
	for {
		info, err := os.Stat(path)
		switch {
		case err == nil && !info.IsDir():
			return fmt.Errorf("%s is no folder", path)
		case err == nil:
			return writable(path)
		case !errors.Is(err, os.ErrNotExist), path == filepath.Dir(path):
			return err
		}
		path = filepath.Dir(path)
	}
}

// checkDatabase says what keeps the server from its database.
func checkDatabase(ctx context.Context, c *config.Config) (owner, known string, err error) {
	path, embedded := strings.CutPrefix(c.DatabaseURL(), "sqlite://")
	if embedded {
		if err := checkPath(c, path); err != nil {
			return "", "", err
		}
	}
	facts, err := store.Check(ctx, path, nameFact, keyFact)
	return facts[nameFact], facts[keyFact], err
}

// checkPath says what keeps an embedded database from being opened or made.
func checkPath(c *config.Config, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		err = f.Close()
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := checkFile(c, path); err != nil {
		return err
	}
	folder := filepath.Dir(path)
	if folder == filepath.Clean(c.Server.DataDir) {
		return nil // it is made
	}
	if _, err := os.Stat(folder); err != nil {
		return err
	}
	return checkFolder(folder)
}
