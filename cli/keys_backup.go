package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) keysBackup() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Keep the keys of messages on the server, encrypted",
		Long: "Keeps the keys of messages on the server, encrypted under a recovery key that only you have.\n" +
			"With it a new session can read old messages. Keep it where you keep your passwords.",
		Example: "  securecomm keys backup enable\n  securecomm keys backup restore",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(a.backupStatus(), a.backupEnable(), a.backupRestore())
	return cmd
}

func (a *app) backupStatus() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Say whether there is a backup and whether this session adds to it",
		Example: "  securecomm keys backup status --json",
		Args:    argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withSession(cmd.Context(), func(s *session) error {
				v, err := s.backupView(cmd.Context())
				if err != nil {
					return err
				}
				if v.Version == "" {
					return a.answer(v, "There is no backup: see \"securecomm keys backup enable\".")
				}
				state := "this session does not add to it"
				if v.Active {
					state = "this session adds to it"
				}
				return a.answer(v, "Backup %s has %d keys; %s.", word(v.Version), v.Count, state)
			})
		},
	}
}

// backupView is what "keys backup status" shows.
type backupView struct {
	Version string `json:"version,omitempty"`
	Count   int64  `json:"sessions"`
	Active  bool   `json:"active"`
}

func (a *app) backupEnable() *cobra.Command {
	var replace bool
	cmd := &cobra.Command{
		Use:     "enable",
		Short:   "Start a backup and show its recovery key once",
		Example: "  securecomm keys backup enable",
		Args:    argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withSession(cmd.Context(), func(s *session) error {
				if err := s.catchUp(cmd.Context()); err != nil {
					return err
				}
				recovery, version, err := s.enableBackup(cmd.Context(), replace)
				if err != nil {
					return err
				}
				return a.answer(map[string]any{"version": version, "recovery_key": recovery},
					"The recovery key, which is shown this once:\n\n    %s\n\nWhoever has it and your account can read your messages.", recovery)
			})
		},
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "start a new one even if there is a backup")
	return cmd
}

func (a *app) backupRestore() *cobra.Command {
	var fromStdin bool
	cmd := &cobra.Command{
		Use:     "restore",
		Short:   "Fetch the keys in the backup, by the recovery key",
		Example: "  securecomm keys backup restore\n  securecomm keys backup restore --recovery-key-stdin < recovery",
		Args:    argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withSession(cmd.Context(), func(s *session) error {
				if _, isTerminal := terminal(a.stdin); !fromStdin && !isTerminal {
					return fail(exitUsage, "pipe it in and say --recovery-key-stdin", "there is no terminal to ask for the recovery key on")
				}
				recovery, err := a.password("Recovery key: ", fromStdin, false)
				if err != nil {
					return err
				}
				if err := s.catchUp(cmd.Context()); err != nil {
					return err
				}
				count, err := s.restoreBackup(cmd.Context(), strings.TrimSpace(recovery))
				if err != nil {
					return err
				}
				return a.answer(map[string]any{"sessions": count}, "Restored %d keys.", count)
			})
		},
	}
	cmd.Flags().BoolVar(&fromStdin, "recovery-key-stdin", false, "read the recovery key from standard input")
	return cmd
}
