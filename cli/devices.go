package cli

import (
	"errors"
	"time"

	"github.com/securecomm/securecomm/e2ee"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/spf13/cobra"
)

// deviceView is one device of a user as the commands show it.
type deviceView struct {
	User        id.UserID   `json:"user_id"`
	ID          id.DeviceID `json:"device_id"`
	Name        string      `json:"name,omitempty"`
	Fingerprint string      `json:"fingerprint,omitempty"`
	Trust       e2ee.Level  `json:"trust"`
	Reason      string      `json:"reason,omitempty"`
	LastSeen    int64       `json:"last_seen,omitempty"` // milliseconds since 1970
	LastIP      string      `json:"last_ip,omitempty"`
	Current     bool        `json:"current,omitempty"`
}

func (a *app) devices() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "devices [USER]",
		Short: "List your sessions or another user's, and manage yours",
		Long: "Lists the devices of a user with their fingerprints and how far they are trusted. Without\n" +
			"USER they are yours, with when and from where the server saw them last.",
		Example: "  securecomm devices\n  securecomm devices @bob:two.example\n  securecomm devices delete ABCDEF",
		Args:    argCount(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withSession(cmd.Context(), func(s *session) error {
				user := s.me.User
				if len(args) > 0 {
					var err error
					if user, err = id.ParseUserID(args[0]); err != nil {
						return unknownCommand(cmd, args[0])
					}
				}
				views, err := s.deviceViews(cmd.Context(), user)
				if err != nil {
					return err
				}
				if a.json {
					return a.document(views)
				}
				for _, v := range views {
					if err := a.say("%s", a.deviceLine(v)); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.AddCommand(a.renameDevice(), a.deleteDevice())
	return cmd
}

func (a *app) deviceLine(v deviceView) text {
	line := compose("%s  %s  %s", v.ID, a.lock(message{Encrypted: true, Trust: v.Trust, Reason: v.Reason}), orElse(v.Fingerprint, "(no keys)"))
	if v.Current {
		line += "  (this session)"
	}
	if v.LastSeen > 0 {
		line += compose("  last seen %s", time.UnixMilli(v.LastSeen).Local().Format("2006-01-02 15:04"))
	}
	if v.Name != "" {
		line += compose("  %s", quoted(v.Name))
	}
	return line
}

func (a *app) renameDevice() *cobra.Command {
	return &cobra.Command{
		Use:     "rename DEVICE NAME",
		Short:   "Rename one of your sessions",
		Example: "  securecomm devices rename ABCDEF 'the laptop'",
		Args:    argCount(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withSession(cmd.Context(), func(s *session) error {
				if err := s.client.RenameDevice(cmd.Context(), id.DeviceID(args[0]), args[1]); err != nil {
					return err
				}
				return a.answer(map[string]any{"device_id": args[0], "name": args[1]}, "Renamed %s.", args[0])
			})
		},
	}
}

func (a *app) deleteDevice() *cobra.Command {
	var passwordStdin bool
	cmd := &cobra.Command{
		Use:   "delete DEVICE",
		Short: "End another of your sessions",
		Long:  "Ends another of your sessions. The server asks for your password.",
		Example: "  securecomm devices delete ABCDEF\n" +
			"  securecomm devices delete ABCDEF --password-stdin < password",
		Args: argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withSession(cmd.Context(), func(s *session) error {
				if id.DeviceID(args[0]) == s.me.Device {
					return fail(exitUsage, `end this session with "securecomm logout"`, "%s is this session", args[0])
				}
				err := s.client.DeleteDevice(cmd.Context(), id.DeviceID(args[0]), s.me.User, a.passwordOnce(passwordStdin))
				if err != nil {
					return err
				}
				return a.answer(map[string]any{"device_id": args[0], "deleted": true}, "Deleted %s.", args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&passwordStdin, "password-stdin", false, "read the password from standard input")
	return cmd
}

// passwordOnce asks for the password when a server wants it, and fails if it wants it again.
func (a *app) passwordOnce(fromStdin bool) func() (string, error) {
	asked := false
	return func() (string, error) {
		if asked {
			return "", errors.New("the server did not take the password")
		}
		asked = true
		return a.password("Password: ", fromStdin, false)
	}
}
