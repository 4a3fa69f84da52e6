package cli

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/securecomm/securecomm/homeserver"
)

// Stdio is where a command reads and writes.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
	// Env is the environment as os.Environ has it; nil means the process's.
	Env []string
}

// app is one run of the program: where it reads and writes, and the flags that all client commands share.
type app struct {
	in       *bufio.Reader
	stdin    io.Reader // in without its buffer, to ask whether it is a terminal
	out, err io.Writer
	env      []string
	noting   sync.Mutex // notes come from several goroutines
	chatting bool       // other commands can't use the profile meanwhile

	home    string
	profile string
	caFile  string
	json    bool
}

// Run performs one command and answers its exit code (see exitCodes). args has no program name.
func Run(ctx context.Context, args []string, stdio Stdio) int {
	a := newApp(stdio)
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdio.In)
	root.SetOut(stdio.Out)
	root.SetErr(stdio.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return exitInterrupted
	}
	code, hint := explain(err)
	a.note("securecomm: %v\nhint: %s", err, hint)
	return code
}

func newApp(stdio Stdio) *app {
	a := &app{in: bufio.NewReader(stdio.In), stdin: stdio.In, out: stdio.Out, err: stdio.Err, env: stdio.Env}
	if a.env == nil {
		a.env = os.Environ()
	}
	return a
}

func (a *app) root() *cobra.Command {
	var version bool
	root := &cobra.Command{
		Use:           "securecomm",
		Short:         "A Matrix homeserver and its end-to-end encrypted terminal client",
		Long:          "securecomm is a Matrix homeserver, its administrator's tool and an end-to-end encrypted\nterminal client for any Matrix server.\n\n" + exitCodes,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if version {
				return a.say("securecomm version %s (build %s, %s)", homeserver.Version, orElse(homeserver.Build(), "unknown"), runtime.Version())
			}
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(cmd, plainFlagError(err))
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.Flags().BoolVar(&version, "version", false, "say which version and build this is")
	a.clientFlags(root.Flags()) // so that they may also stand before the command
	root.AddGroup(
		&cobra.Group{ID: groupClient, Title: "Talking:"},
		&cobra.Group{ID: groupSecurity, Title: "Session and keys:"},
		&cobra.Group{ID: groupServer, Title: "Running a server:"},
	)
	for group, commands := range map[string][]*cobra.Command{
		groupClient: {a.rooms(), a.create(), a.invite(), a.join(), a.leave(), a.members(),
			a.send(), a.read(), a.chat(), a.upload(), a.download()},
		groupSecurity: {a.register(), a.login(), a.logout(), a.whoami(), a.devices(), a.keys()},
	} {
		for _, command := range commands {
			command.GroupID = group
			a.clientFlags(command.PersistentFlags())
			root.AddCommand(command)
		}
	}
	admin := a.admin()
	a.clientFlags(admin.PersistentFlags())
	for _, command := range append(a.serverCommands(), admin) {
		command.GroupID = groupServer
		root.AddCommand(command)
	}
	return root
}

const (
	groupClient   = "client"
	groupSecurity = "security"
	groupServer   = "server"
)

// clientFlags are the flags of every command of the terminal client.
func (a *app) clientFlags(flags *pflag.FlagSet) {
	flags.StringVar(&a.home, "home", a.getenv("SECURECOMM_HOME"), "folder of the client's state (default: securecomm in the user's state folder) [SECURECOMM_HOME]")
	flags.StringVar(&a.profile, "profile", orElse(a.getenv("SECURECOMM_PROFILE"), "default"), "which of several sessions to use [SECURECOMM_PROFILE]")
	flags.StringVar(&a.caFile, "ca-file", a.getenv("SECURECOMM_CA_FILE"), "PEM file of certificate authorities to trust besides the system's [SECURECOMM_CA_FILE]")
	flags.BoolVar(&a.json, "json", false, "write JSON: one document, or one per line")
}

// getenv reads a variable of the environment; the last one of a name counts, as with exec.Cmd.
func (a *app) getenv(name string) string {
	for _, entry := range slices.Backward(a.env) {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// terminal answers the file descriptor of x if it is a terminal.
func terminal(x any) (int, bool) {
	f, ok := x.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	return int(f.Fd()), true
}
