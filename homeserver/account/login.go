package account

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Login is what a new session consists of.
type Login struct {
	User         id.UserID
	Device       id.DeviceID
	AccessToken  string
	RefreshToken string        // empty: the access token cannot be refreshed
	ExpiresIn    time.Duration // 0: never
}

// DeviceRequest says what device a client wants to be.
type DeviceRequest struct {
	ID      id.DeviceID // empty: the server chooses
	Name    string      // of a new device
	Refresh bool        // the client can refresh tokens
}

const (
	maxDeviceID   = 255
	maxDeviceName = 100 // characters, as other servers have it
	maxDevices    = 1000
)

func (d *DeviceRequest) check() error {
	if len(d.ID) > maxDeviceID {
		return fmt.Errorf("%w: a device ID has at most %d bytes", ErrInvalidParam, maxDeviceID)
	}
	if err := checkText(string(d.ID)); err != nil {
		return fmt.Errorf("device ID: %w", err)
	}
	return checkDeviceName(d.Name)
}

func checkDeviceName(name string) error {
	if len([]rune(name)) > maxDeviceName {
		return fmt.Errorf("%w: the display name of a device has at most %d characters", ErrInvalidParam, maxDeviceName)
	}
	return checkText(name)
}

// checkText refuses what PostgreSQL cannot store in a text.
func checkText(s string) error {
	if strings.ContainsRune(s, 0) {
		return fmt.Errorf("%w: a text must not contain the character NUL", ErrInvalidParam)
	}
	return nil
}

// LocalUser reads a user as people write it when they log in: the whole ID or its localpart, in either case.
func (s *Service) LocalUser(name string) (id.UserID, error) {
	if rest, ok := strings.CutPrefix(name, "@"); ok {
		local, server, ok := strings.Cut(rest, ":")
		if !ok || id.ServerName(server) != s.Server {
			return "", fmt.Errorf("%w: not a user of %s", ErrBadLogin, s.Server)
		}
		name = local
	}
	u, err := id.ParseUserID("@" + strings.ToLower(name) + ":" + string(s.Server))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrBadLogin, err)
	}
	return u, nil
}

// CheckPassword says whether a password is a user's. The error wraps ErrBadLogin if not.
func (s *Service) CheckPassword(ctx context.Context, user id.UserID, password string) error {
	var u store.User
	err := s.DB.View(ctx, func(tx *store.Tx) (err error) {
		u, _, err = tx.Users.Get(user)
		return err
	})
	if err != nil {
		return fmt.Errorf("look a user up: %w", err)
	}
	right, err := s.checkSpellings(ctx, u, password)
	if err != nil {
		return fmt.Errorf("check a password: %w", err)
	}
	switch {
	case !right: // also where there is no such user, or no longer: that is not told
		return ErrBadLogin
	case u.Deactivated:
		return ErrDeactivated
	}
	return nil
}

// checkSpellings compares a password in all its forms with a user's. One that was hashed in another than today's is hashed
// anew.
func (s *Service) checkSpellings(ctx context.Context, u store.User, password string) (bool, error) {
	if len(password) > maxPassword {
		return false, nil
	}
	for i, form := range spellings(password) {
		right, err := s.checkPassword(ctx, u.PasswordHash, form)
		if err != nil {
			return false, err
		}
		if !right {
			continue
		}
		if i > 0 && !u.Deactivated {
			return true, s.hashAnew(ctx, u, password)
		}
		return true, nil
	}
	return false, nil
}

// hashAnew replaces the hash of a password, unless the password was changed meanwhile.
func (s *Service) hashAnew(ctx context.Context, u store.User, password string) error {
	hash, err := s.hashPassword(ctx, password)
	if err != nil {
		return err
	}
	return s.DB.Update(ctx, func(tx *store.Tx) error {
		now, ok, err := tx.Users.Get(u.ID)
		if err != nil || !ok || now.PasswordHash != u.PasswordHash {
			return err
		}
		return tx.Users.SetPassword(u.ID, hash)
	})
}

// LoginWithPassword starts a session.
func (s *Service) LoginWithPassword(ctx context.Context, user id.UserID, password string, d DeviceRequest) (Login, error) {
	if err := d.check(); err != nil {
		return Login{}, err
	}
	if err := s.CheckPassword(ctx, user, password); err != nil {
		return Login{}, err
	}
	return s.login(ctx, user, d, nil)
}

// LoginWithToken starts a session for whom LoginToken was called. The token is used up.
func (s *Service) LoginWithToken(ctx context.Context, token string, d DeviceRequest) (Login, error) {
	if err := d.check(); err != nil {
		return Login{}, err
	}
	hash := hashToken(token)
	var user id.UserID
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		pass, ok, err := tx.Passes.Get(hash, purposeLogin, time.Now().UnixMilli())
		if err == nil && !ok {
			return fmt.Errorf("%w: the login token is not valid", ErrBadLogin)
		}
		user = pass.User
		return err
	})
	if err != nil {
		return Login{}, err
	}
	return s.login(ctx, user, d, func(tx *store.Tx) error {
		_, ok, err := tx.Passes.Get(hash, purposeLogin, time.Now().UnixMilli())
		if err != nil {
			return err
		}
		if !ok { // another login was faster
			return fmt.Errorf("%w: the login token is not valid", ErrBadLogin)
		}
		return tx.Passes.Delete(hash)
	})
}

// login starts a session; first runs in the same transaction.
func (s *Service) login(ctx context.Context, user id.UserID, d DeviceRequest, first func(*store.Tx) error) (Login, error) {
	l, t := s.newLogin(user, d)
	if d.ID != "" {
		// Whoever logs in as a device that is just being deleted is a new one.
		if err := s.finishLogout(ctx, user, d.ID); err != nil {
			return Login{}, fmt.Errorf("log in: %w", err)
		}
	}
	err := s.changeDevices(ctx, user, func(tx *store.Tx, tell changed) error {
		if first != nil {
			if err := first(tx); err != nil {
				return err
			}
		}
		u, ok, err := tx.Users.Get(user)
		if err != nil {
			return err
		}
		if !ok || u.Deactivated {
			return ErrDeactivated
		}
		return s.openSession(tx, t, d.Name, tell)
	})
	if err != nil {
		return Login{}, fmt.Errorf("log in: %w", err)
	}
	return l, nil
}

// newLogin makes the tokens of a session.
func (s *Service) newLogin(user id.UserID, d DeviceRequest) (Login, store.Token) {
	if d.ID == "" {
		d.ID = id.DeviceID(rand.Text()[:10])
	}
	l := Login{User: user, Device: d.ID, AccessToken: newToken(accessPrefix)}
	t := store.Token{Access: hashToken(l.AccessToken), User: user, Device: d.ID}
	if d.Refresh {
		s.makeRefreshable(&l, &t, newToken(refreshPrefix))
	}
	return l, t
}

func (s *Service) makeRefreshable(l *Login, t *store.Token, refresh string) {
	l.RefreshToken, l.ExpiresIn = refresh, s.TokenLifetime
	t.Refresh = hashToken(l.RefreshToken)
	if s.TokenLifetime > 0 {
		t.ExpiresAt = time.Now().Add(s.TokenLifetime).UnixMilli()
	}
}

// openSession writes a session. A device that is already there keeps its name and loses its former tokens.
func (s *Service) openSession(tx *store.Tx, t store.Token, name string, tell changed) error {
	gone, err := tx.Tokens.DeleteDevice(t.User, t.Device)
	if err != nil {
		return err
	}
	if len(gone) > 0 {
		tx.AfterCommit(func() { s.sessions.forget(gone) })
	} else if err := deleteDevices(tx, t.User, []id.DeviceID{t.Device}, tell); err != nil {
		return err
	}
	fresh, err := tx.Devices.Insert(store.Device{User: t.User, ID: t.Device, DisplayName: name, CreatedAt: time.Now().UnixMilli()})
	if err != nil {
		return err
	}
	if fresh {
		if n, err := tx.Devices.Count(t.User); err != nil {
			return err
		} else if n > maxDevices {
			return fmt.Errorf("%w: a user has at most %d devices; log out of some first", ErrTooMany, maxDevices)
		} else if n > 1 {
			if err := tell(tx, []id.DeviceID{t.Device}, nil); err != nil {
				return err
			}
		}
	}
	return tx.Tokens.Insert(t)
}

// Refresh gives a new pair of tokens for a refresh token. The old pair is revoked when the new one is first used (Client-Server
// API, "Refreshing access tokens"). Who asks again before, because the answer was lost or two processes of a client ask at
// once, is given the same pair: it follows from the refresh token and a secret of the server.
func (s *Service) Refresh(ctx context.Context, refresh string) (Login, error) {
	secret, err := s.loadSecret(ctx)
	if err != nil {
		return Login{}, err
	}
	hash := hashToken(refresh)
	var l Login
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		old, ok, err := tx.Tokens.ByRefresh(hash)
		if err != nil {
			return err
		}
		if !ok || s.abandoned(old.ExpiresAt) {
			return ErrUnknownToken
		}
		gone, err := tx.Tokens.Confirm(old)
		if err != nil {
			return err
		}
		tx.AfterCommit(func() { s.sessions.forget(gone) })
		l = Login{User: old.User, Device: old.Device, AccessToken: nextToken(secret, accessPrefix, refresh)}
		t := store.Token{Access: hashToken(l.AccessToken), Replaces: hash, User: old.User, Device: old.Device}
		s.makeRefreshable(&l, &t, nextToken(secret, refreshPrefix, refresh))
		_, again, err := tx.Tokens.ByRefresh(t.Refresh)
		switch {
		case err != nil:
			return err
		case again:
			return tx.Tokens.SetExpiry(t.Access, t.ExpiresAt)
		default:
			return tx.Tokens.Insert(t)
		}
	})
	if err != nil {
		return Login{}, fmt.Errorf("refresh a token: %w", err)
	}
	return l, nil
}

// abandoned says whether a session can no longer be refreshed, whose access token was valid until a time.
func (s *Service) abandoned(expiresAt int64) bool {
	return s.RefreshLifetime > 0 && expiresAt > 0 && expiresAt < time.Now().Add(-s.RefreshLifetime).UnixMilli()
}

// maxAbandoned is how many abandoned sessions are ended at a time; the others are for the next.
const maxAbandoned = 10_000

// Prune logs those devices out that nobody has refreshed for RefreshLifetime. It is to be called about once an hour.
func (s *Service) Prune(ctx context.Context) error {
	if s.RefreshLifetime <= 0 {
		return nil
	}
	before := time.Now().Add(-s.RefreshLifetime).UnixMilli()
	var old []store.Device
	err := s.DB.View(ctx, func(tx *store.Tx) (err error) {
		old, err = tx.Tokens.Abandoned(before, maxAbandoned)
		return err
	})
	for _, d := range old {
		if err != nil {
			break
		}
		err = s.DB.Update(ctx, func(tx *store.Tx) error {
			lives, err := tx.Tokens.Lives(d.User, d.ID, before)
			if err != nil || lives { // somebody has logged in as this device meanwhile
				return err
			}
			gone, err := tx.Tokens.DeleteDevice(d.User, d.ID)
			return errors.Join(err, s.loggedOut(tx, d.User, gone))
		})
		if err == nil {
			s.deleteLoggedOut(ctx, d.User)
		}
	}
	if err != nil {
		return fmt.Errorf("end abandoned sessions: %w", err)
	}
	return nil
}

// The purposes of passes.
const (
	purposeLogin  = "login"
	purposeOpenID = "openid"
)

// How long passes are good for.
const (
	LoginTokenLifetime  = 2 * time.Minute
	OpenIDTokenLifetime = time.Hour
)

// LoginToken makes a token with which another device of the user can log in once, within LoginTokenLifetime.
func (s *Service) LoginToken(ctx context.Context, user id.UserID) (string, error) {
	return s.issuePass(ctx, user, purposeLogin, loginPrefix, LoginTokenLifetime)
}

// OpenIDToken makes a token with which a third party can ask this server who the user is, within OpenIDTokenLifetime.
func (s *Service) OpenIDToken(ctx context.Context, user id.UserID) (string, error) {
	return s.issuePass(ctx, user, purposeOpenID, openIDPrefix, OpenIDTokenLifetime)
}

func (s *Service) issuePass(ctx context.Context, user id.UserID, purpose, prefix string, life time.Duration) (string, error) {
	token := newToken(prefix)
	p := store.Pass{Hash: hashToken(token), Purpose: purpose, User: user, ExpiresAt: time.Now().Add(life).UnixMilli()}
	err := s.DB.Update(ctx, func(tx *store.Tx) error { return tx.Passes.Insert(p, time.Now().UnixMilli()) })
	if err != nil {
		return "", fmt.Errorf("issue a %s token: %w", purpose, err)
	}
	return token, nil
}

// OpenIDUser says whom OpenIDToken made a token for.
func (s *Service) OpenIDUser(ctx context.Context, token string) (id.UserID, error) {
	var user id.UserID
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		pass, ok, err := tx.Passes.Get(hashToken(token), purposeOpenID, time.Now().UnixMilli())
		if err == nil && !ok {
			return ErrUnknownToken
		}
		user = pass.User
		return err
	})
	return user, err
}
