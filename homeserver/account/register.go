package account

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // the protocol of the existing tools
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// Account says what account is wanted.
type Account struct {
	Username string // empty: the server chooses
	Password string
	Admin    bool
	// DisplayName is the first one; empty: the username.
	DisplayName string
	// NoLogin makes the account without a session.
	NoLogin bool
	Device  DeviceRequest
}

// Available says whether an account of a name could be made; nil if so. Where registration is closed, nobody learns
// which names are taken.
func (s *Service) Available(ctx context.Context, username string) error {
	if !s.Registration.Open {
		return ErrRegistrationClosed
	}
	_, err := s.newUser(ctx, username)
	return err
}

// newUser checks a name for an account and returns the user ID that it would have.
func (s *Service) newUser(ctx context.Context, username string) (id.UserID, error) {
	if username == "" {
		username = strings.ToLower(rand.Text()[:12])
	}
	user, err := id.NewUserID(strings.ToLower(username), s.Server)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrInvalidUsername, err)
	}
	if strings.HasPrefix(username, "_") {
		return "", fmt.Errorf("%w: names that begin with _ are for bridges", ErrInvalidUsername)
	}
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		_, ok, err := tx.Users.Get(user)
		if err == nil && ok {
			return ErrUserInUse
		}
		return err
	})
	return user, err
}

// Register makes an account for whoever passes interactive authentication; a *Challenge asks for it.
func (s *Service) Register(ctx context.Context, a Account, auth *Auth) (Login, error) {
	a.Admin = false
	if auth != nil && auth.Session != "" {
		if l, done, err := s.registered(ctx, a, auth.Session); done || err != nil {
			return l, err
		}
	}
	var token []byte
	if !s.Registration.Open { // only who has a token learns which names are taken
		var err error
		if token, err = s.confirmRegistration(ctx, auth); err != nil {
			return Login{}, err
		}
	}
	user, err := s.newUser(ctx, a.Username)
	if err != nil {
		return Login{}, err
	}
	if a.Password != "" {
		if err := s.checkPolicy(a.Password); err != nil {
			return Login{}, err
		}
	}
	if s.Registration.Open {
		if token, err = s.confirmRegistration(ctx, auth); err != nil {
			return Login{}, err
		}
	}
	if auth.Session == "" {
		return s.create(ctx, user, a, token, nil)
	}
	l, err := s.create(ctx, user, a, token, func(tx *store.Tx) error { return finishSession(tx, auth.Session, user) })
	if errors.Is(err, errFinished) || errors.Is(err, ErrUserInUse) { // the same request was faster
		if l, done, err := s.registered(ctx, a, auth.Session); done || err != nil {
			return l, err
		}
	}
	return l, err
}

const registeredPurpose = "registered in session"

// errFinished says that a session has been used.
var errFinished = fmt.Errorf("%w: the session has made an account already", ErrForbidden)

// finishSession remembers whose account a session has made.
func finishSession(tx *store.Tx, session string, user id.UserID) error {
	now := time.Now()
	_, done, err := tx.Passes.Get(hashToken(session), registeredPurpose, now.UnixMilli())
	if err != nil {
		return err
	}
	if done {
		return errFinished
	}
	p := store.Pass{Hash: hashToken(session), Purpose: registeredPurpose, User: user, ExpiresAt: now.Add(ticketLife).UnixMilli()}
	return tx.Passes.Insert(p, now.UnixMilli())
}

// registered repeats the answer to a registration whose session has made its account: whoever asks again did not get it.
// Who knows the password is logged in; no second account is made.
func (s *Service) registered(ctx context.Context, a Account, session string) (l Login, done bool, err error) {
	var user id.UserID
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		pass, ok, err := tx.Passes.Get(hashToken(session), registeredPurpose, time.Now().UnixMilli())
		user, done = pass.User, ok
		return err
	})
	if err != nil || !done {
		return Login{}, done, err
	}
	if name := strings.ToLower(a.Username); name != "" && name != user.Localpart() {
		return Login{}, true, errFinished
	}
	if a.NoLogin {
		return Login{User: user}, true, s.CheckPassword(ctx, user, a.Password)
	}
	l, err = s.LoginWithPassword(ctx, user, a.Password, a.Device)
	return l, true, err
}

// Create makes an account without asking whether it may be made: for administrators and their tools.
func (s *Service) Create(ctx context.Context, a Account) (Login, error) {
	user, err := s.newUser(ctx, a.Username)
	if err != nil {
		return Login{}, err
	}
	return s.create(ctx, user, a, nil, nil)
}

// create makes an account. A registration token is used up, if there is one; first, which may be nil, runs in the same
// transaction.
func (s *Service) create(ctx context.Context, user id.UserID, a Account, token []byte, first func(*store.Tx) error) (Login, error) {
	if err := s.checkPolicy(a.Password); err != nil {
		return Login{}, err
	}
	if err := a.Device.check(); err != nil {
		return Login{}, err
	}
	name, err := json.Marshal(cmp.Or(a.DisplayName, user.Localpart()))
	if err != nil {
		return Login{}, fmt.Errorf("encode a display name: %w", err)
	}
	folded, _, err := checkField(FieldDisplayName, name)
	if err != nil {
		return Login{}, err
	}
	hash, err := s.hashPassword(ctx, a.Password)
	if err != nil {
		return Login{}, fmt.Errorf("hash a password: %w", err)
	}
	l, t := s.newLogin(user, a.Device)
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		u := store.User{ID: user, PasswordHash: hash, Admin: a.Admin, CreatedAt: time.Now().UnixMilli()}
		if token != nil {
			valid, ok, err := tx.Passes.Registration(token, time.Now().UnixMilli())
			if err != nil {
				return err
			}
			if !ok { // another registration was faster
				return errBadRegistrationToken
			}
			u.Admin = u.Admin || valid.Admin
			if err := tx.Passes.UseRegistration(token); err != nil {
				return err
			}
		}
		if first != nil {
			if err := first(tx); err != nil {
				return err
			}
		}
		ok, err := tx.Users.Insert(u)
		if err != nil {
			return err
		}
		if !ok {
			return ErrUserInUse
		}
		if err := tx.Profiles.Set(user, FieldDisplayName, name, folded); err != nil {
			return err
		}
		if u.Admin {
			if err := tx.Passes.DeleteBootstrap(); err != nil {
				return err
			}
		}
		if a.NoLogin {
			return nil
		}
		return s.openSession(tx, t, a.Device.Name, nil) // there is no other device: nobody is told
	})
	if err != nil {
		return Login{}, err
	}
	if a.NoLogin {
		return Login{User: user}, nil
	}
	return l, nil
}

// RegistrationTokenValid says whether someone could register with a token now.
func (s *Service) RegistrationTokenValid(ctx context.Context, token string) (bool, error) {
	var ok bool
	err := s.DB.View(ctx, func(tx *store.Tx) (err error) {
		_, ok, err = tx.Passes.Registration(hashToken(token), time.Now().UnixMilli())
		return err
	})
	return ok, err
}

// NewRegistrationToken makes a token that lets people register: uses times (-1: without limit), for a
// time (0: for ever), as administrators or not.
func (s *Service) NewRegistrationToken(ctx context.Context, uses int, life time.Duration, admin bool) (string, error) {
	token := newToken(registrationPrefix)
	t := store.RegistrationToken{Hash: hashToken(token), Uses: int64(uses), Admin: admin}
	if life > 0 {
		t.ExpiresAt = time.Now().Add(life).UnixMilli()
	}
	err := s.DB.Update(ctx, func(tx *store.Tx) error { return tx.Passes.InsertRegistration(t, time.Now().UnixMilli()) })
	if err != nil {
		return "", fmt.Errorf("make a registration token: %w", err)
	}
	return token, nil
}

// BootstrapToken makes a token with which the first administrator can register, once. It returns an empty
// string as soon as there is an administrator; until then, each call makes the tokens before invalid.
func (s *Service) BootstrapToken(ctx context.Context) (string, error) {
	token := newToken(registrationPrefix)
	err := s.DB.Update(ctx, func(tx *store.Tx) error {
		if err := tx.Passes.DeleteBootstrap(); err != nil {
			return err
		}
		any, err := tx.Users.AnyAdmin()
		if err != nil {
			return err
		}
		if any {
			token = ""
			return nil
		}
		t := store.RegistrationToken{Hash: hashToken(token), Uses: 1, Admin: true, Bootstrap: true}
		return tx.Passes.InsertRegistration(t, time.Now().UnixMilli())
	})
	if err != nil {
		return "", fmt.Errorf("make the token for the first administrator: %w", err)
	}
	return token, nil
}

const noncePurpose = "shared secret nonce"

// useNonce remembers that a nonce was used, as long as it would be good.
func useNonce(tx *store.Tx, nonce string) error {
	now := time.Now()
	_, used, err := tx.Passes.Get(hashToken(nonce), noncePurpose, now.UnixMilli())
	if err != nil {
		return err
	}
	if used {
		return fmt.Errorf("%w: the nonce has been used", ErrForbidden)
	}
	return tx.Passes.Insert(store.Pass{Hash: hashToken(nonce), Purpose: noncePurpose, ExpiresAt: now.Add(ticketLife).UnixMilli()}, now.UnixMilli())
}

// Nonce begins a registration by shared secret.
func (s *Service) Nonce(ctx context.Context) (string, error) {
	if s.Registration.SharedSecret == "" {
		return "", fmt.Errorf("%w: there is no shared secret for registrations", ErrForbidden)
	}
	return s.signTicket(ctx, noncePurpose)
}

// SharedProof proves knowledge of the shared secret.
type SharedProof struct {
	Nonce    string
	UserType string
	MAC      string // hexadecimal
}

// RegisterShared makes an account for who knows the shared secret, as the registration tools of other
// homeservers do. The MAC is HMAC-SHA1 over the nonce, the name, the password, "admin" or "notadmin",
// and the user type if there is one, joined by NUL.
func (s *Service) RegisterShared(ctx context.Context, a Account, p SharedProof) (Login, error) {
	if s.Registration.SharedSecret == "" {
		return Login{}, fmt.Errorf("%w: there is no shared secret for registrations", ErrForbidden)
	}
	ok, err := s.checkTicket(ctx, noncePurpose, p.Nonce)
	if err != nil {
		return Login{}, err
	}
	if !ok {
		return Login{}, fmt.Errorf("%w: the nonce is unknown or has expired", ErrForbidden)
	}
	role := "notadmin"
	if a.Admin {
		role = "admin"
	}
	words := []string{p.Nonce, a.Username, a.Password, role}
	if p.UserType != "" {
		words = append(words, p.UserType)
	}
	mac := hmac.New(sha1.New, []byte(s.Registration.SharedSecret))
	mac.Write([]byte(strings.Join(words, "\x00")))
	given, err := hex.DecodeString(p.MAC)
	if err != nil || !hmac.Equal(given, mac.Sum(nil)) {
		return Login{}, fmt.Errorf("%w: the MAC is wrong", ErrForbidden)
	}
	user, err := s.newUser(ctx, a.Username)
	if err != nil {
		return Login{}, err
	}
	return s.create(ctx, user, a, nil, func(tx *store.Tx) error { return useNonce(tx, p.Nonce) })
}
