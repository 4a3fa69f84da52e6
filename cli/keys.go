package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/spf13/cobra"
)

func (a *app) keys() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Show, verify, back up and move encryption keys",
		Long: "Shows this session's fingerprint, which others compare with what their client shows of you.\n" +
			"Compare over another channel: face to face, or by telephone with a voice you know.",
		Example: "  securecomm keys\n  securecomm keys verify @bob:two.example\n  securecomm keys backup enable",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return a.showKeys(cmd)
		},
	}
	cmd.AddCommand(a.keysShow(), a.keysBootstrap(), a.keysVerify(), a.keysExport(), a.keysImport(), a.keysBackup())
	return cmd
}

// keysView is what "keys show" shows.
type keysView struct {
	User        id.UserID   `json:"user_id"`
	Device      id.DeviceID `json:"device_id"`
	Fingerprint string      `json:"fingerprint"`
	Identity    string      `json:"identity,omitempty"` // the master key; empty without cross-signing
	Status      string      `json:"cross_signing"`
}

func (a *app) keysShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Short:   "Show this session's fingerprint and your identity",
		Example: "  securecomm keys show --json",
		Args:    argCount(0, 0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.showKeys(cmd) },
	}
}

func (a *app) showKeys(cmd *cobra.Command) error {
	return a.withSession(cmd.Context(), func(s *session) error {
		if err := s.catchUp(cmd.Context()); err != nil {
			return err
		}
		v, err := s.keysView(cmd.Context())
		if err != nil {
			return err
		}
		return a.answer(v, "User         %s\nSession      %s\nFingerprint  %s\nIdentity     %s\nCross-signing: %s",
			v.User, v.Device, v.Fingerprint, orElse(v.Identity, "(none)"), v.Status)
	})
}

func (a *app) keysBootstrap() *cobra.Command {
	var passwordStdin, replace bool
	cmd := &cobra.Command{
		Use:   "bootstrap",
		Short: "Make your cross-signing identity",
		Long: "Makes an identity that vouches for your sessions, so that others verify you once and not\n" +
			"each session. The server may ask for your password.",
		Example: "  securecomm keys bootstrap\n  securecomm keys bootstrap --password-stdin < password",
		Args:    argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withSession(cmd.Context(), func(s *session) error {
				if err := s.catchUp(cmd.Context()); err != nil {
					return err
				}
				if err := s.bootstrap(cmd.Context(), replace, a.passwordOnce(passwordStdin)); err != nil {
					return err
				}
				v, err := s.keysView(cmd.Context())
				if err != nil {
					return err
				}
				return a.answer(v, "Your identity is %s.", v.Identity)
			})
		},
	}
	cmd.Flags().BoolVar(&passwordStdin, "password-stdin", false, "read the password from standard input")
	cmd.Flags().BoolVar(&replace, "replace", false, "replace an identity whose keys this session lacks; others will be warned")
	return cmd
}

func (a *app) keysVerify() *cobra.Command {
	var fingerprint string
	var live bool
	cmd := &cobra.Command{
		Use:   "verify USER [DEVICE]",
		Short: "Mark a user's identity, or one device, as verified",
		Long: "Shows the fingerprint of a user's identity, or of one device, and marks it as verified once\n" +
			"you confirm that it is the one that the user's own client shows. --fingerprint gives what\n" +
			"you were told instead, to be compared here.\n\n" +
			"With --live both compare seven pictures or three numbers at the same time, in any client,\nand verify each other by that.",
		Example: "  securecomm keys verify @bob:two.example\n  securecomm keys verify @bob:two.example --live\n  securecomm keys verify @bob:two.example ABCDEF --fingerprint 'uK4t 9Fp1 ...'",
		Args:    argCount(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			user, err := id.ParseUserID(args[0])
			if err != nil {
				return err
			}
			var device id.DeviceID
			if len(args) > 1 {
				device = id.DeviceID(args[1])
			}
			if live && (device != "" || fingerprint != "") {
				return fail(exitUsage, "leave out either", "--live compares no given device or fingerprint")
			}
			return a.withSession(cmd.Context(), func(s *session) error {
				if live {
					if err := s.verifyLive(cmd.Context(), user); err != nil {
						return err
					}
					return a.answer(map[string]any{"user_id": user, "verified": true}, "Verified %s.", user)
				}
				if err := s.catchUp(cmd.Context()); err != nil {
					return err
				}
				actual, err := s.fingerprintOf(cmd.Context(), user, device)
				if err != nil {
					return err
				}
				if err := a.compare(actual, fingerprint); err != nil {
					return err
				}
				if err := s.verify(cmd.Context(), user, device, actual); err != nil {
					return err
				}
				return a.answer(map[string]any{"user_id": user, "device_id": device, "fingerprint": grouped(actual), "verified": true},
					"Verified %s %s.", user, device)
			})
		},
	}
	cmd.Flags().StringVar(&fingerprint, "fingerprint", "", "the fingerprint that you were told")
	cmd.Flags().BoolVar(&live, "live", false, "compare pictures with the other side, both at the same time")
	return cmd
}

// compare lets the user compare a fingerprint, or compares it with the one the user was told.
func (a *app) compare(actual, told string) error {
	const hint = "do not trust it; ask again over another channel who holds this key"
	if told != "" {
		if strings.Join(strings.Fields(told), "") != actual {
			return fail(exitUnsafe, hint, "the fingerprint is another one than you were told: %s", grouped(actual))
		}
		return nil
	}
	same, err := a.confirm("The fingerprint is " + grouped(actual) + ". Is it what the other client shows?")
	if err != nil {
		return err
	}
	if !same {
		return fail(exitUnsafe, hint, "not confirmed")
	}
	return nil
}

func (a *app) keysExport() *cobra.Command {
	var passphraseFile string
	cmd := &cobra.Command{
		Use:     "export FILE",
		Short:   "Write the keys of all messages into a file, under a passphrase",
		Long:    "Writes the keys of all messages that this session can read into a file that other clients\ncan import, encrypted under a passphrase.",
		Example: "  securecomm keys export keys.txt\n  securecomm keys export keys.txt --passphrase-file passphrase",
		Args:    argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withSession(cmd.Context(), func(s *session) error {
				passphrase, err := a.filePassphrase(passphraseFile, true)
				if err != nil {
					return err
				}
				data, count, err := s.exportKeys(passphrase)
				if err != nil {
					return err
				}
				if err := a.writeFile(args[0], data, false); err != nil || args[0] == "-" {
					return err
				}
				return a.answer(map[string]any{"file": args[0], "sessions": count}, "Exported %d keys into %s.", count, args[0])
			})
		},
	}
	cmd.Flags().StringVar(&passphraseFile, "passphrase-file", "", "file whose first line is the passphrase (default: a prompt)")
	return cmd
}

func (a *app) keysImport() *cobra.Command {
	var passphraseFile string
	cmd := &cobra.Command{
		Use:     "import FILE",
		Short:   "Read keys of messages from a file",
		Long:    "Reads keys of messages from a file that this or another client exported.",
		Example: "  securecomm keys import keys.txt",
		Args:    argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := a.readFile(args[0])
			if err != nil {
				return err
			}
			return a.withSession(cmd.Context(), func(s *session) error {
				passphrase, err := a.filePassphrase(passphraseFile, false)
				if err != nil {
					return err
				}
				count, err := s.importKeys(data, passphrase)
				if err != nil {
					return err
				}
				return a.answer(map[string]any{"sessions": count}, "Imported %d keys.", count)
			})
		},
	}
	cmd.Flags().StringVar(&passphraseFile, "passphrase-file", "", "file whose first line is the passphrase (default: a prompt)")
	return cmd
}

// filePassphrase gets the passphrase of an export.
func (a *app) filePassphrase(file string, twice bool) (string, error) {
	if file == "" {
		if _, isTerminal := terminal(a.stdin); !isTerminal {
			return "", fail(exitUsage, "name a file with --passphrase-file", "there is no terminal to ask for the passphrase on")
		}
		return a.password("Passphrase of the file: ", false, twice)
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fail(exitUsage, "check the name given to --passphrase-file", "%w", err)
	}
	if err != nil {
		return "", fmt.Errorf("reading the passphrase: %w", err)
	}
	return checkSecret(firstLine(data))
}
