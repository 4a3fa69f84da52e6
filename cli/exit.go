package cli

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotLoggedIn = 3
	exitRefused     = 4
	exitUnreachable = 5
	exitUnsafe      = 6
	exitBusy        = 7
	exitInterrupted = 130
)

const exitCodes = `Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not logged in, 4 refused by the server,
5 server not reachable, 6 refused because it would be unsafe, 7 profile in use, 130 interrupted.
Every error ends with a line that begins with "hint:".`

// failure is an error that knows its exit code and what the user can do about it.
type failure struct {
	code int
	err  error
	hint string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// fail makes a failure; the format works as in fmt.Errorf.
func fail(code int, hint, format string, args ...any) error {
	return &failure{code: code, err: fmt.Errorf(format, args...), hint: hint}
}

func usageError(cmd *cobra.Command, err error) error {
	return &failure{code: exitUsage, err: err, hint: fmt.Sprintf("see %q", cmd.CommandPath()+" --help")}
}

// plainFlagError says what a flag takes, in place of how its value was parsed.
func plainFlagError(err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	takes := ""
	switch invalid.GetFlag().Value.Type() {
	case "int":
		takes = "a whole number"
	case "duration":
		takes = "a time such as 90s or 24h"
	case "bool":
		takes = "true or false"
	default:
		return err
	}
	return fmt.Errorf("--%s takes %s, not %q", invalid.GetFlag().Name, takes, invalid.GetValue())
}

func unknownCommand(cmd *cobra.Command, name string) error {
	cmd.SuggestionsMinimumDistance = 2
	hint := fmt.Sprintf("see %q", cmd.CommandPath()+" --help")
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %q?", cmd.CommandPath()+" "+near[0])
	}
	return &failure{code: exitUsage, err: fmt.Errorf("there is no command %q", name), hint: hint}
}

// argCount makes a check of the number of arguments; upTo < 0 means any number.
func argCount(from, upTo int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < from {
			return usageError(cmd, errors.New("an argument is missing: "+cmd.UseLine()))
		}
		if upTo >= 0 && len(args) > upTo {
			return usageError(cmd, errors.New("too many arguments: "+cmd.UseLine()))
		}
		return nil
	}
}

// explain finds the exit code and the hint for any error.
func explain(err error) (code int, hint string) {
	var known *failure
	if errors.As(err, &known) {
		return known.code, known.hint
	}
	var refused *client.Error
	if errors.As(err, &refused) {
		return explainRefusal(refused)
	}
	if code, hint, ok := explainKeys(err); ok {
		return code, hint
	}
	if code, hint, ok := explainRecovery(err); ok {
		return code, hint
	}
	var stages *client.StagesError
	var file *fs.PathError
	switch {
	case errors.As(err, &file): // first, since the system's errors look like those of a network
		return exitFailure, explainFile(file)
	case errors.As(err, &stages):
		return exitRefused, "a server with a registration token takes it by --token; other kinds of registration need a browser"
	case errors.Is(err, client.ErrNoServer):
		return exitUnreachable, "name the server's URL with --server"
	case client.Unreachable(err):
		return exitUnreachable, "check the network and the server's address, then try again"
	case errors.Is(err, id.ErrInvalid):
		return exitUsage, "users are written @name:server, rooms !id:server or #alias:server"
	}
	return exitFailure, "run the command again; if it fails again, report it with this message"
}

func explainFile(err *fs.PathError) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "check the owner and mode of the file"
	case errors.Is(err, fs.ErrNotExist):
		return "check the file's name"
	default:
		return "check the file and the disk that it is on"
	}
}

// explainEntry gives refusals of a login or a registration the hint that fits there.
func explainEntry(err error, register bool) error {
	var refused *client.Error
	if !errors.As(err, &refused) || refused.Code != "M_FORBIDDEN" {
		return err
	}
	hint := "check the name and the password"
	if register {
		hint = "ask the server's administrator for a registration token, and give it by --token"
	}
	return &failure{code: exitRefused, err: err, hint: hint}
}

func explainRefusal(refused *client.Error) (code int, hint string) {
	switch refused.Code {
	case "M_UNKNOWN_TOKEN", "M_MISSING_TOKEN":
		return exitNotLoggedIn, `the session has ended; log in again with "securecomm login"`
	case "M_FORBIDDEN":
		return exitRefused, "ask who administers the room, or the server, for the permission"
	case "M_NOT_FOUND":
		return exitRefused, `check the name; "securecomm rooms" lists your rooms`
	case "M_LIMIT_EXCEEDED":
		return exitRefused, "the server limits how often this may be done; wait and try again"
	case "M_USER_IN_USE":
		return exitRefused, "choose another name, or log in if the account is yours"
	case "M_INVALID_USERNAME":
		return exitRefused, "names have a-z, 0-9 and . _ = - / +"
	case "M_WEAK_PASSWORD":
		return exitRefused, "choose a longer password"
	case "M_TOO_LARGE":
		return exitRefused, "the server does not take anything that large"
	case "M_USER_DEACTIVATED":
		return exitRefused, "the account was deactivated; ask the server's administrator"
	}
	if refused.Status >= 500 {
		return exitRefused, "the server has a problem of its own; try again later or ask its administrator"
	}
	return exitRefused, "the server's words above say why; ask its administrator if they don't help"
}
