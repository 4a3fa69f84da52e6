package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/e2ee/vault"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/spf13/cobra"
)

// entry is how a user gets into an account, from the flags of login and register.
type entry struct {
	server        string
	deviceName    string
	passwordStdin bool
	passphrase    bool
	token         string
}

func (e *entry) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&e.server, "server", "", "URL of the server (default: found by the user's name)")
	flags.StringVar(&e.deviceName, "device-name", "securecomm", "what to call this session; others can see it")
	flags.BoolVar(&e.passwordStdin, "password-stdin", false, "read the password from standard input")
	flags.BoolVar(&e.passphrase, "passphrase", false, "protect the session's files by a passphrase instead of a key file")
}

func (a *app) login() *cobra.Command {
	var e entry
	cmd := &cobra.Command{
		Use:   "login USER",
		Short: "Log in as a new session",
		Long: "Logs in and makes the keys of this session. USER is @name:server, or a name if --server is\n" +
			"given. What the session keeps is encrypted: by a key file that only you can read, or by a\n" +
			"passphrase (--passphrase, or in the file that SECURECOMM_PASSPHRASE_FILE names).\n\n" +
			"Logging in again as the same user renews a session that has ended and keeps its keys. An\n" +
			"account that has no cross-signing identity yet gets one.",
		Example: "  securecomm login @alice:one.example\n  securecomm login alice --server https://matrix.one.example --password-stdin < password",
		Args:    argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.enter(cmd.Context(), args[0], e, false)
		},
	}
	e.flags(cmd)
	return cmd
}

func (a *app) register() *cobra.Command {
	var e entry
	cmd := &cobra.Command{
		Use:   "register USER",
		Short: "Make an account and log in",
		Long: "Makes an account on a server that allows it, and logs in. A registration token from the\n" +
			"server's administrator is given by --token or in SECURECOMM_REGISTRATION_TOKEN.\n\n" +
			"The account gets a cross-signing identity, which vouches for this session.",
		Example: "  securecomm register @alice:one.example --token abc123",
		Args:    argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.enter(cmd.Context(), args[0], e, true)
		},
	}
	e.flags(cmd)
	cmd.Flags().StringVar(&e.token, "token", a.getenv("SECURECOMM_REGISTRATION_TOKEN"), "registration token [SECURECOMM_REGISTRATION_TOKEN]")
	cmd.Flags().Lookup("token").DefValue = ""
	return cmd
}

// enter logs in or registers, and makes or renews the profile.
func (a *app) enter(ctx context.Context, user string, e entry, register bool) error {
	p, err := a.findProfile()
	if err != nil {
		return err
	}
	defer p.close()
	device, err := p.deviceOf(ctx, user, register)
	if err != nil {
		return err
	}
	carrier, err := client.NewHTTP(a.caFile)
	if err != nil {
		return err
	}
	base, err := findServer(ctx, carrier, user, e.server)
	if err != nil {
		return err
	}
	password, err := a.password("Password: ", e.passwordStdin, register)
	if err != nil {
		return err
	}
	var key vault.Key
	if p.vault == nil && e.passphrase {
		// Asked before the login, so that a login is not lost to a mistyped passphrase.
		if key, err = p.newKey(true); err != nil {
			return err
		}
	}
	c := &client.Client{Base: base, HTTP: carrier, Waiting: a.waiting}
	var got client.Session
	if register {
		got, err = c.Register(ctx, id.UserID(orSigil(user)).Localpart(), password, e.token, e.deviceName)
	} else {
		got, err = c.Login(ctx, user, password, device, e.deviceName)
	}
	if err != nil {
		return explainEntry(err, register)
	}
	if p.vault == nil {
		if !e.passphrase {
			if key, err = p.newKey(false); err != nil {
				return err
			}
		}
		if err := p.unlock(ctx, key); err != nil {
			return err
		}
	}
	if err := p.store(recordSession, account{User: got.UserID, Device: got.DeviceID, Token: got.Token, Refresh: got.Refresh, Base: base}); err != nil {
		return err
	}
	s, err := p.session()
	if err != nil {
		return err
	}
	if device != "" {
		if err := s.machine.Republish(); err != nil {
			return err
		}
	}
	if err := s.catchUp(ctx); err != nil {
		return err
	}
	if err := s.firstIdentity(ctx, password); err != nil {
		return err
	}
	return a.answer(s.view(), "Logged in as %s on %s (session %s).", got.UserID, base, got.DeviceID)
}

// firstIdentity makes the user's cross-signing identity if there is none yet, so that others see from the first message on
// that its owner vouches for this session. The account works without one: only what would end the command is an error.
func (s *session) firstIdentity(ctx context.Context, password string) error {
	err := s.learnUsers(ctx, []id.UserID{s.me.User})
	if err == nil {
		var own e2ee.Identity
		if own, err = s.machine.Identity(s.me.User); err == nil && own.Fingerprint != "" {
			return nil // made by another session, or before this one was renewed
		}
	}
	if err == nil {
		given := false
		err = s.bootstrap(ctx, false, func() (string, error) {
			if given {
				return "", errors.New("the server did not take the password")
			}
			given = true
			return password, nil
		})
	}
	if err != nil && ctx.Err() == nil {
		s.app.note("Warning: your cross-signing identity could not be made, so that others can't verify you once for all your sessions: %v\n"+
			"Make it with \"securecomm keys bootstrap\".", err)
		return nil
	}
	return err
}

// deviceOf opens the profile if there is one, and answers its device: to log in again as the same user renews
// the session and keeps its keys.
func (p *profile) deviceOf(ctx context.Context, user string, register bool) (id.DeviceID, error) {
	if !p.exists() {
		return "", nil
	}
	if err := p.open(ctx); err != nil {
		return "", err
	}
	who, err := p.account()
	if err != nil {
		return "", err
	}
	if register || who.User != id.UserID(user) && who.User.Localpart() != user {
		return "", fail(exitUsage, `choose another --profile, or "securecomm logout" first`, "the profile %s belongs to %s", p.app.profile, who.User)
	}
	return who.Device, nil
}

// orSigil makes "name" and "@name:server" alike.
func orSigil(user string) string {
	if strings.HasPrefix(user, "@") {
		return user
	}
	return "@" + user
}

// findServer is the base URL of the user's server.
func findServer(ctx context.Context, carrier *http.Client, user, named string) (string, error) {
	if named != "" {
		if !strings.Contains(named, "://") {
			named = "https://" + named
		}
		base, err := client.CheckBase(named)
		if err != nil {
			return "", fail(exitUsage, "write it as https://host; plain http only to this machine", "%w", err)
		}
		return base, nil
	}
	parsed, err := id.ParseUserID(user)
	if err != nil {
		return "", fail(exitUsage, "write @name:server, or name the server by --server", "%w", err)
	}
	return client.Discover(ctx, carrier, parsed.Server())
}

func (a *app) logout() *cobra.Command {
	var local, yes bool
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "End the session and delete its keys here",
		Long: "Ends the session on the server and deletes everything that this profile keeps. Messages that\n" +
			"only this session could decrypt can't be read afterwards, unless their keys are in a backup\n" +
			"(\"securecomm keys backup\") or were exported (\"securecomm keys export\").",
		Example: "  securecomm logout\n  securecomm logout --yes --profile work",
		Args:    argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, isTerminal := terminal(a.stdin); isTerminal && !yes {
				sure, err := a.confirm("The keys of this session will be deleted here.")
				if err != nil {
					return err
				}
				if !sure {
					return fail(exitFailure, "nothing was changed", "not confirmed")
				}
			}
			p, err := a.findProfile()
			if err != nil {
				return err
			}
			defer p.close()
			return p.end(cmd.Context(), local)
		},
	}
	cmd.Flags().BoolVar(&local, "local", false, "delete the profile even if the server can't be told")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// end ends the session on the server and deletes the profile.
func (p *profile) end(ctx context.Context, local bool) error {
	if err := p.open(ctx); err != nil {
		return err
	}
	who, err := p.account()
	if err != nil {
		return err
	}
	c, err := p.client(who)
	if err != nil {
		return err
	}
	if err := c.Logout(ctx); err != nil && !ended(err) && !local {
		return err
	}
	if err := p.remove(); err != nil {
		return err
	}
	return p.app.answer(map[string]any{"user_id": who.User, "logged_out": true}, "Logged out %s.", who.User)
}

// ended says whether the server has ended the session.
func ended(err error) bool {
	var refused *client.Error
	return errors.As(err, &refused) && (refused.Code == "M_UNKNOWN_TOKEN" || refused.Code == "M_MISSING_TOKEN")
}

func (a *app) whoami() *cobra.Command {
	return &cobra.Command{
		Use:     "whoami",
		Short:   "Show who is logged in, and check it with the server",
		Example: "  securecomm whoami --json",
		Args:    argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withSession(cmd.Context(), func(s *session) error {
				got, err := s.client.WhoAmI(cmd.Context())
				if err != nil {
					return err
				}
				if got.UserID != s.me.User {
					return fail(exitUnsafe, "log in again", "the server says that the session belongs to %s, not %s", got.UserID, s.me.User)
				}
				return a.answer(s.view(), "%s", s.me.User)
			})
		},
	}
}

// sessionView is a session as the commands show it.
type sessionView struct {
	User        id.UserID   `json:"user_id"`
	Device      id.DeviceID `json:"device_id"`
	Server      string      `json:"server"`
	Profile     string      `json:"profile"`
	Fingerprint string      `json:"fingerprint"`
}

func (s *session) view() sessionView {
	return sessionView{User: s.me.User, Device: s.me.Device, Server: s.me.Base, Profile: s.app.profile, Fingerprint: s.fingerprint()}
}

// fingerprint is the session's key in groups of four, as people compare it.
func (s *session) fingerprint() string { return grouped(s.machine.Fingerprint()) }

func grouped(key string) string {
	var out strings.Builder
	for i, r := range key {
		if i > 0 && i%4 == 0 {
			out.WriteByte(' ')
		}
		fmt.Fprintf(&out, "%c", r)
	}
	return out.String()
}
