package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee/vault"
	"github.com/securecomm/securecomm/homeserver/id"
)

// The files of a profile.
const (
	vaultFile = "vault"
	keyFile   = "vault.key"
)

// The records that this package keeps in the vault; e2ee keeps its own beside them.
const (
	recordSession = "cli/session"
	recordRoom    = "cli/room/"
	recordHistory = "cli/history/"
)

const (
	// lockPatience is how long a command waits for another one that uses the profile.
	lockPatience = 5 * time.Second
	lockPoll     = 50 * time.Millisecond
)

var profileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// account is who a profile belongs to, as the vault keeps it.
type account struct {
	User   id.UserID   `json:"user_id"`
	Device id.DeviceID `json:"device_id"`
	Token  string      `json:"access_token"`
	// Refresh is the refresh token; empty if the access token does not expire.
	Refresh string `json:"refresh_token,omitempty"`
	Base    string `json:"server"`
}

// profile is the folder of one session. While its vault is open no other process can use it.
type profile struct {
	app   *app
	dir   string
	vault *vault.Vault
}

func (a *app) findProfile() (*profile, error) {
	if !profileName.MatchString(a.profile) {
		return nil, fail(exitUsage, "use letters, digits and . _ -", "%q can't be the name of a profile", a.profile)
	}
	home := a.home
	if home == "" {
		home = a.getenv("XDG_STATE_HOME")
		if home == "" {
			user, err := os.UserHomeDir()
			if err != nil {
				return nil, fail(exitFailure, "name a folder with --home", "finding your folder: %w", err)
			}
			home = filepath.Join(user, ".local", "state")
		}
		home = filepath.Join(home, "securecomm")
	}
	return &profile{app: a, dir: filepath.Join(home, "profiles", a.profile)}, nil
}

func (p *profile) path(file string) string { return filepath.Join(p.dir, file) }

func (p *profile) exists() bool { return vault.Exists(p.path(vaultFile)) }

// open opens the profile of a session that is logged in.
func (p *profile) open(ctx context.Context) error {
	if !p.exists() {
		return fail(exitNotLoggedIn, `log in with "securecomm login", or name another profile with --profile`, "nobody is logged in")
	}
	key, err := p.key()
	if err != nil {
		return err
	}
	return p.unlock(ctx, key)
}

// key is what opens the existing vault: the key file if there is one, else a passphrase.
func (p *profile) key() (vault.Key, error) {
	if _, err := os.Stat(p.path(keyFile)); !errors.Is(err, fs.ErrNotExist) {
		key, err := vault.KeyFile(p.path(keyFile))
		if err != nil {
			return vault.Key{}, fail(exitUnsafe, "only you should be able to read the key file", "%w", err)
		}
		return key, nil
	}
	return p.app.passphrase("Passphrase of this profile: ", false)
}

// newKey makes what will open a vault yet to be made.
func (p *profile) newKey(passphrase bool) (vault.Key, error) {
	if passphrase || p.app.getenv("SECURECOMM_PASSPHRASE_FILE") != "" {
		return p.app.passphrase("Passphrase for this profile: ", true)
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return vault.Key{}, fmt.Errorf("making the profile's folder: %w", err)
	}
	key, err := vault.KeyFile(p.path(keyFile))
	if err != nil {
		return vault.Key{}, fail(exitUnsafe, "only you should be able to read the key file", "%w", err)
	}
	return key, nil
}

// passphrase gets a passphrase from the file that the environment names, else from a prompt.
func (a *app) passphrase(prompt string, twice bool) (vault.Key, error) {
	var words string
	if name := a.getenv("SECURECOMM_PASSPHRASE_FILE"); name != "" {
		data, err := os.ReadFile(name)
		if err != nil {
			return vault.Key{}, fmt.Errorf("reading the passphrase: %w", err)
		}
		if words, err = checkSecret(firstLine(data)); err != nil {
			return vault.Key{}, err
		}
	} else {
		var err error
		if _, isTerminal := terminal(a.stdin); !isTerminal {
			return vault.Key{}, fail(exitUsage, "put it into a file that SECURECOMM_PASSPHRASE_FILE names", "there is no terminal to ask for the passphrase on")
		}
		if words, err = a.password(prompt, false, twice); err != nil {
			return vault.Key{}, err
		}
	}
	return vault.Passphrase(words)
}

// unlock opens the vault or makes it, and waits a little for another command to end.
func (p *profile) unlock(ctx context.Context, key vault.Key) error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fmt.Errorf("making the profile's folder: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for {
		opened, err := vault.Open(p.path(vaultFile), key)
		switch {
		case err == nil:
			p.vault = opened
			if opened.Recovered() {
				p.app.note("Warning: the last change to this profile was cut off, by a crash or a full disk, and was undone.\n"+
					"What there was of it is kept in %s.", vault.Torn(p.path(vaultFile)))
			}
			return nil
		case errors.Is(err, vault.ErrWrongKey):
			return fail(exitFailure, "try again; nobody can open it without the passphrase or key file", "%w", err)
		case errors.Is(err, vault.ErrVersion):
			return fail(exitFailure, "use the version that made it, or log in under another --profile", "%w", err)
		case !errors.Is(err, vault.ErrLocked):
			return fail(exitFailure, "nothing was changed; restore the profile's folder from a backup, or log in under another --profile", "%w", err)
		}
		select {
		case <-ctx.Done():
			return fail(exitBusy, "end the other command (a chat has commands of its own: /help), or use another --profile", "another command uses the profile %s", p.app.profile)
		case <-ticker.C:
		}
	}
}

func (p *profile) close() error {
	if p.vault == nil {
		return nil
	}
	return p.vault.Close()
}

// remove deletes the profile with all its keys.
func (p *profile) remove() error {
	err := errors.Join(p.close(), os.RemoveAll(p.dir))
	if err != nil {
		return fmt.Errorf("deleting the profile: %w", err)
	}
	return nil
}

// account reads who the profile belongs to.
func (p *profile) account() (account, error) {
	var who account
	ok, err := p.load(recordSession, &who)
	if err == nil && !ok {
		err = fail(exitNotLoggedIn, `log in with "securecomm login"`, "nobody is logged in")
	}
	return who, err
}

// load reads a record into out; ok is false if there is none.
func (p *profile) load(record string, out any) (ok bool, err error) {
	data, ok := p.vault.Get(record)
	if !ok {
		return false, nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return false, fmt.Errorf("reading %s: %w", record, err)
	}
	return true, nil
}

// store writes a record durably.
func (p *profile) store(record string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", record, err)
	}
	return p.vault.Update(func(tx *vault.Tx) error {
		tx.Put(record, data)
		return nil
	})
}

// client makes the calls of an account, and keeps its tokens in the vault when they are renewed.
func (p *profile) client(who account) (*client.Client, error) {
	carrier, err := client.NewHTTP(p.app.caFile)
	if err != nil {
		return nil, err
	}
	return &client.Client{Base: who.Base, Token: who.Token, Refresh: who.Refresh, HTTP: carrier, Waiting: p.app.waiting,
		Renewed: func(token, refresh string) error {
			who.Token, who.Refresh = token, refresh
			return p.store(recordSession, who)
		}}, nil
}

func (a *app) waiting(d time.Duration) {
	a.note("The server limits the rate; waiting %s.", d.Round(100*time.Millisecond))
}
