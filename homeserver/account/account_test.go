package account_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/securecomm/securecomm/homeserver/account"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
	"github.com/securecomm/securecomm/homeserver/store/storetest"
)

const password = "correct horse"

var dummy = &account.Auth{Type: account.StageDummy}

func newService(db *store.DB, change func(*account.Options)) *account.Service {
	o := account.Options{
		DB: db, Server: "example.org", Log: slog.New(slog.DiscardHandler), MinPassword: 8,
		Registration: account.Registration{Open: true},
	}
	if change != nil {
		change(&o)
	}
	return account.New(o)
}

func register(t *testing.T, s *account.Service, name string, refresh bool) account.Login {
	t.Helper()
	l, err := s.Register(t.Context(), account.Account{Username: name, Password: password, Device: account.DeviceRequest{Refresh: refresh}}, dummy)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustAuthenticate(t *testing.T, s *account.Service, token string) account.Requester {
	t.Helper()
	r, err := s.Authenticate(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func TestSessions(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := newService(db, nil)
		alice := register(t, s, "Alice", false)
		if alice.User != "@alice:example.org" || alice.RefreshToken != "" || alice.ExpiresIn != 0 {
			t.Errorf("registered as %+v", alice)
		}
		r := mustAuthenticate(t, s, alice.AccessToken)
		if r.User != alice.User || r.Device != alice.Device || r.Admin {
			t.Errorf("authenticated as %+v", r)
		}
		_, err := s.Authenticate(ctx, alice.AccessToken+"x")
		wantErr(t, "wrong token", err, account.ErrUnknownToken)
		_, err = s.LoginWithPassword(ctx, alice.User, "wrong", account.DeviceRequest{})
		wantErr(t, "wrong password", err, account.ErrBadLogin)
		_, err = s.LoginWithPassword(ctx, "@nobody:example.org", password, account.DeviceRequest{})
		wantErr(t, "unknown user", err, account.ErrBadLogin)

		phone, err := s.LoginWithPassword(ctx, alice.User, password, account.DeviceRequest{ID: "PHONE", Name: "my phone"})
		if err != nil {
			t.Fatal(err)
		}
		again, err := s.LoginWithPassword(ctx, alice.User, password, account.DeviceRequest{ID: "PHONE", Name: "other"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Authenticate(ctx, phone.AccessToken)
		wantErr(t, "the token before a second login of the device", err, account.ErrUnknownToken)
		if d, err := s.Device(ctx, alice.User, "PHONE"); err != nil || d.DisplayName != "my phone" {
			t.Errorf("the device is %+v, %v", d, err)
		}
		if err := s.Logout(ctx, mustAuthenticate(t, s, again.AccessToken)); err != nil {
			t.Fatal(err)
		}
		_, err = s.Authenticate(ctx, again.AccessToken)
		wantErr(t, "after logout", err, account.ErrUnknownToken)
		mustAuthenticate(t, s, alice.AccessToken)
		if err := s.LogoutAll(ctx, alice.User); err != nil {
			t.Fatal(err)
		}
		_, err = s.Authenticate(ctx, alice.AccessToken)
		wantErr(t, "after logging out everywhere", err, account.ErrUnknownToken)
	})
}

// TestLogoutIsFinal authenticates while the session ends: once Logout has returned, no remembered
// session may let the token in.
func TestLogoutIsFinal(t *testing.T) {
	s := newService(storetest.Open(t, t.TempDir()+"/test.db"), nil)
	alice := register(t, s, "alice", false)
	for range 20 {
		l, err := s.LoginWithPassword(t.Context(), alice.User, password, account.DeviceRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						_, _ = s.Authenticate(context.Background(), l.AccessToken) // only its memory matters
					}
				}
			})
		}
		if err := s.DeleteDevices(t.Context(), l.User, l.Device); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if _, err := s.Authenticate(t.Context(), l.AccessToken); !errors.Is(err, account.ErrUnknownToken) {
				t.Fatalf("after logout: %v", err)
			}
		}
		close(stop)
		wg.Wait()
	}
}

func TestRefresh(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := newService(db, func(o *account.Options) { o.TokenLifetime = time.Hour })
		first := register(t, s, "alice", true)
		if first.RefreshToken == "" || first.ExpiresIn != time.Hour {
			t.Fatalf("got %+v", first)
		}
		lost, err := s.Refresh(ctx, first.RefreshToken)
		if err != nil {
			t.Fatal(err)
		}
		// The answer was lost, or two tabs asked at once: the old token still works, and both have the same pair.
		second, err := s.Refresh(ctx, first.RefreshToken)
		if err != nil {
			t.Fatal(err)
		}
		if second.AccessToken != lost.AccessToken || second.RefreshToken != lost.RefreshToken {
			t.Error("the first of two answers to a refresh token is good for nothing")
		}
		mustAuthenticate(t, s, first.AccessToken)
		if r := mustAuthenticate(t, s, second.AccessToken); r.Device != first.Device {
			t.Errorf("refreshed as %+v", r)
		}
		_, err = s.Authenticate(ctx, first.AccessToken)
		wantErr(t, "the old access token after the new one was used", err, account.ErrUnknownToken)
		_, err = s.Refresh(ctx, first.RefreshToken)
		wantErr(t, "the old refresh token after the new one was used", err, account.ErrUnknownToken)

		// Using the new refresh token revokes the old pair as well.
		third, err := s.Refresh(ctx, second.RefreshToken)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Refresh(ctx, third.RefreshToken); err != nil {
			t.Fatal(err)
		}
		_, err = s.Refresh(ctx, second.RefreshToken)
		wantErr(t, "a refresh token after the one that came of it was used", err, account.ErrUnknownToken)
		_, err = s.Authenticate(ctx, second.AccessToken)
		wantErr(t, "the pair before the last", err, account.ErrUnknownToken)
		_, err = s.Refresh(ctx, first.AccessToken)
		wantErr(t, "an access token as refresh token", err, account.ErrUnknownToken)
	})
}

func TestSessionsThatNobodyRefreshesEnd(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		var deleted []id.DeviceID
		s := newService(db, func(o *account.Options) {
			o.TokenLifetime, o.RefreshLifetime = time.Nanosecond, time.Nanosecond
			o.DevicesChanging = func(context.Context, id.UserID) (func(*store.Tx, []id.DeviceID, []id.DeviceID) error, error) {
				return func(_ *store.Tx, _, devices []id.DeviceID) error {
					deleted = append(deleted, devices...)
					return nil
				}, nil
			}
		})
		lasting, abandoned := register(t, s, "alice", false), register(t, s, "bob", true)
		s.RefreshLifetime = time.Hour
		if err := s.Prune(ctx); err != nil || len(deleted) > 0 {
			t.Errorf("before its time %v were deleted, %v", deleted, err)
		}
		s.RefreshLifetime = time.Nanosecond
		for began := time.Now(); time.Since(began) < 2*time.Millisecond; { // times are kept to the millisecond
		}
		_, err := s.Refresh(ctx, abandoned.RefreshToken)
		wantErr(t, "refreshing too late", err, account.ErrUnknownToken)
		if err := s.Prune(ctx); err != nil || len(deleted) != 1 || deleted[0] != abandoned.Device {
			t.Errorf("deleted %v, want %s; %v", deleted, abandoned.Device, err)
		}
		mustAuthenticate(t, s, lasting.AccessToken)
	})
}

func TestTokensThatNeverExpire(t *testing.T) {
	s := newService(storetest.Open(t, t.TempDir()+"/test.db"), func(o *account.Options) { o.TokenLifetime, o.RefreshLifetime = 0, time.Nanosecond })
	l := register(t, s, "alice", true)
	if l.ExpiresIn != 0 || l.RefreshToken == "" {
		t.Errorf("got %+v", l)
	}
	if err := s.Prune(t.Context()); err != nil {
		t.Error(err)
	}
	mustAuthenticate(t, s, l.AccessToken)
	if _, err := s.Refresh(t.Context(), l.RefreshToken); err != nil {
		t.Error(err)
	}
}

func TestLoginTokensEndWithTheSessions(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := newService(db, nil)
		alice := register(t, s, "alice", false)
		for what, end := range map[string]func() error{
			"a new password": func() error {
				return s.ChangePassword(ctx, account.Requester{User: alice.User, Device: alice.Device}, "battery staple", true)
			},
			"logging out everywhere": func() error { return s.LogoutAll(ctx, alice.User) },
		} {
			token, err := s.LoginToken(ctx, alice.User)
			if err != nil {
				t.Fatal(err)
			}
			if err := end(); err != nil {
				t.Fatal(err)
			}
			_, err = s.LoginWithToken(ctx, token, account.DeviceRequest{})
			wantErr(t, "a login token after "+what, err, account.ErrBadLogin)
		}
	})
}

func TestClosedServersTellNoNames(t *testing.T) {
	db := storetest.Open(t, t.TempDir()+"/test.db")
	closed := newService(db, func(o *account.Options) { o.Registration = account.Registration{} })
	ask := func(name string, auth *account.Auth) error {
		_, err := closed.Register(t.Context(), account.Account{Username: name, Password: password}, auth)
		return err
	}
	register(t, newService(db, nil), "taken", false)
	for _, name := range []string{"taken", "free"} {
		wantErr(t, "registering as "+name, ask(name, nil), account.ErrRegistrationClosed)
		wantErr(t, "asking for "+name, closed.Available(t.Context(), name), account.ErrRegistrationClosed)
	}
	token, err := closed.NewRegistrationToken(t.Context(), 1, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"taken", "free"} {
		var challenge *account.Challenge
		if err := ask(name, nil); !errors.As(err, &challenge) {
			t.Errorf("registering as %s without the token: %v", name, err)
		}
		wantErr(t, "asking for "+name, closed.Available(t.Context(), name), account.ErrRegistrationClosed)
	}
	with := &account.Auth{Type: account.StageRegistrationToken, Token: token}
	wantErr(t, "with the token", ask("taken", with), account.ErrUserInUse)
	if err := ask("free", with); err != nil {
		t.Error(err)
	}
}

func TestChallengesStayInTheirSession(t *testing.T) {
	s := newService(storetest.Open(t, t.TempDir()+"/test.db"), nil)
	alice := register(t, s, "alice", false)
	r := account.Requester{User: alice.User, Device: alice.Device}
	ask := func(auth *account.Auth) string {
		var challenge *account.Challenge
		if err := s.Confirm(t.Context(), r, "x", auth); !errors.As(err, &challenge) {
			t.Fatalf("got %v", err)
		}
		return challenge.Session
	}
	session := ask(nil)
	for what, auth := range map[string]*account.Auth{
		"only the session": {Session: session}, "another stage": {Session: session, Type: "m.login.sso"},
		"a wrong password": {Session: session, Type: account.StagePassword, Password: "wrong"},
	} {
		if again := ask(auth); again != session {
			t.Errorf("%s: another session", what)
		}
	}
	if ask(&account.Auth{Session: "made up"}) == "made up" {
		t.Error("a session that a client made up is taken")
	}
}

func TestExpiry(t *testing.T) {
	s := newService(storetest.Open(t, t.TempDir()+"/test.db"), func(o *account.Options) { o.TokenLifetime = time.Nanosecond })
	l := register(t, s, "alice", true)
	for range 2 { // from the database, and from memory
		_, err := s.Authenticate(t.Context(), l.AccessToken)
		wantErr(t, "expired token", err, account.ErrTokenExpired)
	}
	if _, err := s.Refresh(t.Context(), l.RefreshToken); err != nil {
		t.Errorf("an expired token cannot be refreshed: %v", err)
	}
}

func TestRegistration(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := newService(db, nil)
		_, err := s.Register(ctx, account.Account{Username: "alice", Password: password}, nil)
		var challenge *account.Challenge
		if !errors.As(err, &challenge) || challenge.Flows[0][0] != account.StageDummy || challenge.Err != nil {
			t.Fatalf("got %v", err)
		}
		auth := &account.Auth{Type: account.StageDummy, Session: challenge.Session}
		l, err := s.Register(ctx, account.Account{Username: "alice", Password: password, NoLogin: true}, auth)
		if err != nil || l.AccessToken != "" || l.Device != "" {
			t.Errorf("got %+v, %v", l, err)
		}
		_, err = s.Register(ctx, account.Account{Username: "ALICE", Password: password}, nil)
		wantErr(t, "a name that is taken, before authentication", err, account.ErrUserInUse)
		_, err = s.Register(ctx, account.Account{Username: "bob", Password: "7 chars"}, nil)
		wantErr(t, "short password", err, account.ErrWeakPassword)
		_, err = s.Register(ctx, account.Account{Username: "bob", Password: strings.Repeat("x", 513)}, dummy)
		wantErr(t, "long password", err, account.ErrWeakPassword)
		for _, bad := range []string{"_bridge", "a:b", "a b", "é"} {
			wantErr(t, bad, s.Available(ctx, bad), account.ErrInvalidUsername)
		}
		if err := s.Available(ctx, "bob"); err != nil {
			t.Error(err)
		}
		other := "A"
		if challenge.Session[0] == 'A' {
			other = "B"
		}
		auth.Session = other + challenge.Session[1:]
		_, err = s.Register(ctx, account.Account{Username: "bob", Password: password}, auth)
		if !errors.As(err, &challenge) || challenge.Err == nil {
			t.Errorf("a forged session: %v", err)
		}
	})
}

func TestBootstrap(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := newService(db, func(o *account.Options) { o.Registration = account.Registration{} })
		wanted := account.Account{Username: "root", Password: password}
		_, err := s.Register(ctx, wanted, dummy)
		wantErr(t, "closed registration", err, account.ErrRegistrationClosed)
		old, err := s.BootstrapToken(ctx)
		if err != nil {
			t.Fatal(err)
		}
		token, err := s.BootstrapToken(ctx)
		if err != nil || token == "" || token == old {
			t.Fatalf("got %q, %v", token, err)
		}
		var challenge *account.Challenge
		_, err = s.Register(ctx, wanted, &account.Auth{Type: account.StageRegistrationToken, Token: old})
		if !errors.As(err, &challenge) || challenge.Err == nil {
			t.Errorf("the token of an earlier start: %v", err)
		}
		_, err = s.Register(ctx, wanted, dummy)
		if !errors.As(err, &challenge) {
			t.Errorf("a stage that is not offered: %v", err)
		}
		l, err := s.Register(ctx, wanted, &account.Auth{Type: account.StageRegistrationToken, Token: token})
		if err != nil {
			t.Fatal(err)
		}
		if r := mustAuthenticate(t, s, l.AccessToken); !r.Admin {
			t.Error("the first user is no administrator")
		}
		wanted.Username = "second"
		_, err = s.Register(ctx, wanted, &account.Auth{Type: account.StageRegistrationToken, Token: token})
		wantErr(t, "the token a second time", err, account.ErrRegistrationClosed)
		if token, err := s.BootstrapToken(ctx); err != nil || token != "" {
			t.Errorf("with an administrator: %q, %v", token, err)
		}
	})
}

// TestBootstrapWhenOpen: a server on which everybody may register gets its administrator by the token all the same.
func TestBootstrapWhenOpen(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := newService(db, nil)
		if r := mustAuthenticate(t, s, register(t, s, "alice", false).AccessToken); r.Admin {
			t.Fatal("the first user is an administrator without a token")
		}
		first, err := s.BootstrapToken(ctx)
		if err != nil || first == "" {
			t.Fatalf("with users but no administrator: %q, %v", first, err)
		}
		var challenge *account.Challenge
		_, err = s.Register(ctx, account.Account{Username: "bob", Password: password}, nil)
		if !errors.As(err, &challenge) || len(challenge.Flows) != 2 || challenge.Flows[0][0] != account.StageDummy || challenge.Flows[1][0] != account.StageRegistrationToken {
			t.Fatalf("got %v", err)
		}
		l, err := s.Register(ctx, account.Account{Username: "root", Password: password}, &account.Auth{Type: account.StageRegistrationToken, Token: first})
		if err != nil || !mustAuthenticate(t, s, l.AccessToken).Admin {
			t.Fatalf("the token makes no administrator: %v", err)
		}
		if err := s.SetAdmin(ctx, l.User, false); err != nil {
			t.Fatal(err)
		}
		second, err := s.BootstrapToken(ctx)
		if err != nil || second == "" {
			t.Fatalf("with no administrator any more: %q, %v", second, err)
		}
		if err := s.SetAdmin(ctx, "@alice:example.org", true); err != nil {
			t.Fatal(err)
		}
		if valid, err := s.RegistrationTokenValid(ctx, second); valid || err != nil {
			t.Errorf("the token outlives the coming of an administrator: %v", err)
		}
	})
}

func TestConfirm(t *testing.T) {
	s := newService(storetest.Open(t, t.TempDir()+"/test.db"), nil)
	ctx := t.Context()
	alice := mustAuthenticate(t, s, register(t, s, "alice", false).AccessToken)
	bob := mustAuthenticate(t, s, register(t, s, "bob", false).AccessToken)
	challenge := func(err error) *account.Challenge {
		t.Helper()
		var c *account.Challenge
		if !errors.As(err, &c) {
			t.Fatalf("got %v", err)
		}
		return c
	}
	asked := challenge(s.Confirm(ctx, alice, "delete devices", nil))
	auth := func(user, password, session string) *account.Auth {
		a := &account.Auth{Type: account.StagePassword, Password: password, Session: session}
		a.Identifier.Type, a.Identifier.User = "m.id.user", user
		return a
	}
	if err := s.Confirm(ctx, alice, "delete devices", auth("alice", password, asked.Session)); err != nil {
		t.Error(err)
	}
	if err := s.Confirm(ctx, alice, "delete devices", auth("", password, "")); err != nil {
		t.Error(err)
	}
	wantErr(t, "wrong password", challenge(s.Confirm(ctx, alice, "delete devices", auth("@alice:example.org", "wrong", ""))).Err, account.ErrBadLogin)
	wantErr(t, "user of another server", challenge(s.Confirm(ctx, alice, "delete devices", auth("@alice:other", password, ""))).Err, account.ErrBadLogin)
	wantErr(t, "another user", s.Confirm(ctx, alice, "delete devices", auth("bob", password, "")), account.ErrForbidden)
	if challenge(s.Confirm(ctx, alice, "change the password", auth("alice", password, asked.Session))).Err == nil {
		t.Error("a session served for another operation")
	}
	if challenge(s.Confirm(ctx, bob, "delete devices", auth("bob", password, asked.Session))).Err == nil {
		t.Error("a session served for another user")
	}
}

func TestPasswordAndDeactivation(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		left := make(chan id.UserID, 10)
		var deleted []id.DeviceID
		s := newService(db, func(o *account.Options) {
			o.Deactivated = func(_ context.Context, u id.UserID) error { left <- u; return nil }
			o.DevicesChanging = func(context.Context, id.UserID) (func(*store.Tx, []id.DeviceID, []id.DeviceID) error, error) {
				return func(_ *store.Tx, _, devices []id.DeviceID) error {
					deleted = append(deleted, devices...)
					return nil
				}, nil
			}
		})
		runCtx, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(runCtx) })
		defer wg.Wait()
		defer stop()

		alice := register(t, s, "alice", false)
		other, err := s.LoginWithPassword(ctx, alice.User, password, account.DeviceRequest{})
		if err != nil {
			t.Fatal(err)
		}
		r := mustAuthenticate(t, s, alice.AccessToken)
		wantErr(t, "weak password", s.ChangePassword(ctx, r, "x", true), account.ErrWeakPassword)
		if err := s.ChangePassword(ctx, r, "battery staple", true); err != nil {
			t.Fatal(err)
		}
		mustAuthenticate(t, s, alice.AccessToken)
		_, err = s.Authenticate(ctx, other.AccessToken)
		wantErr(t, "another device", err, account.ErrUnknownToken)
		if len(deleted) != 1 || deleted[0] != other.Device {
			t.Errorf("deleted %v, want %s", deleted, other.Device)
		}
		wantErr(t, "old password", s.CheckPassword(ctx, alice.User, password), account.ErrBadLogin)

		if err := s.SetProfileField(ctx, alice.User, "org.example.x", []byte(`1`)); err != nil {
			t.Fatal(err)
		}
		if err := s.Deactivate(ctx, alice.User, true); err != nil {
			t.Fatal(err)
		}
		if u := <-left; u != alice.User {
			t.Errorf("%s left the rooms", u)
		}
		_, err = s.Authenticate(ctx, alice.AccessToken)
		wantErr(t, "token of a deactivated user", err, account.ErrUnknownToken)
		_, err = s.LoginWithPassword(ctx, alice.User, "battery staple", account.DeviceRequest{})
		wantErr(t, "login of a deactivated user", err, account.ErrBadLogin)
		wantErr(t, "the name of a deactivated user", s.Available(ctx, "alice"), account.ErrUserInUse)
		_, err = s.Profile(ctx, alice.User, "")
		wantErr(t, "the profile of an erased user", err, account.ErrNotFound)
	})
}
