package cli

import (
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/spf13/cobra"
)

// admin is what administrators of a server do to it while it runs.
func (a *app) admin() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "admin",
		Short: "Let people register, and name administrators",
		Long: "What an administrator of a server does while it runs, as the user who is logged in. The first\n" +
			"administrator registers with the token that \"securecomm serve\" prints.",
		Example: "  securecomm admin token --uses 10 --valid 168h\n  securecomm admin grant @bob:one.example",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(a.adminToken(),
		a.setAdmin("grant", "Make a user an administrator", true), a.setAdmin("revoke", "Make an administrator a user like others", false))
	return cmd
}

func (a *app) adminToken() *cobra.Command {
	var uses int
	var valid time.Duration
	cmd := &cobra.Command{
		Use:     "token",
		Short:   "Make a token with which others can register",
		Example: "  securecomm admin token\n  securecomm admin token --uses 10 --valid 168h",
		Args:    argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if uses < 0 || valid < 0 {
				return fail(exitUsage, "0 means without limit", "--uses and --valid can't be less than 0")
			}
			return a.withSession(cmd.Context(), func(s *session) error {
				token, err := s.client.RegistrationToken(cmd.Context(), uses, valid)
				if err != nil {
					return err
				}
				return a.answer(map[string]any{"token": token, "uses": uses, "valid_ms": valid.Milliseconds()}, "%s", token)
			})
		},
	}
	cmd.Flags().IntVar(&uses, "uses", 1, "how many may register with it; 0 for any number")
	cmd.Flags().DurationVar(&valid, "valid", 7*24*time.Hour, "for how long; 0 for ever")
	return cmd
}

func (a *app) setAdmin(name, short string, admin bool) *cobra.Command {
	return &cobra.Command{
		Use:     name + " USER",
		Short:   short,
		Long:    short + ". Sessions that are open notice it within half a minute.",
		Example: "  securecomm admin " + name + " @bob:one.example",
		Args:    argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			user, err := id.ParseUserID(args[0])
			if err != nil {
				return err
			}
			return a.withSession(cmd.Context(), func(s *session) error {
				if err := s.client.SetAdmin(cmd.Context(), user, admin); err != nil {
					return err
				}
				says := "%s is an administrator."
				if !admin {
					says = "%s is no administrator."
				}
				return a.answer(map[string]any{"user_id": user, "admin": admin}, says, user)
			})
		},
	}
}
