package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver"
)

func (a *app) serve() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the homeserver",
		Long: "Runs the homeserver until it is interrupted. Started with nothing, it listens on this machine only and\n" +
			"lets nobody register but who has the one-time token that it prints for the first administrator.",
		Example: "  securecomm serve --dev\n  securecomm serve --config /etc/securecomm/securecomm.yaml",
		Args:    argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.loadConfig(cmd)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return a.runServer(ctx, c)
		},
	}
	a.configFlags(cmd)
	return cmd
}

// garbagePercent trades processor time for memory: the server's heap is mostly caches of a fixed size.
const garbagePercent = 50

func (a *app) runServer(ctx context.Context, c *config.Config) (err error) {
	if a.getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	log := logger(c, a.err)
	// From the beginning, and to the end: without a listener the signal would end the process in the middle of its work.
	var running atomic.Pointer[homeserver.Server]
	defer onHangup(func() {
		log.Info("told to reload")
		if server := running.Load(); server != nil {
			server.Reload()
		}
	})()
	server, err := homeserver.New(ctx, c, log)
	if errors.Is(err, homeserver.ErrInUse) {
		own := "server.data_dir"
		if !strings.HasPrefix(c.DatabaseURL(), "sqlite:") {
			own = "database.url"
		}
		return &failure{code: exitBusy, err: err, hint: "stop the other server first, or give this one a " + own + " of its own; \"securecomm admin\" talks to the one that runs"}
	}
	if err != nil {
		return &failure{code: exitFailure, err: err, hint: startHint(err)}
	}
	defer func() {
		if closeErr := server.Close(); err == nil {
			err = closeErr
		}
	}()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	running.Store(server)
	var failed error
	err = server.Run(ctx, func(addresses map[string]net.Addr) {
		// Only now: a new token ends the one before, and a start that fails must not do that.
		token, err := server.Account.BootstrapToken(ctx)
		if err != nil {
			failed = fmt.Errorf("make the first administrator's token: %w", err)
			stop()
			return
		}
		address := addresses["client"].String()
		if err := a.welcome(c, c.LocalURL(address), token); err != nil {
			log.Warn("how to register could not be told", "err", err)
		}
		log.Info("ready", "server", c.Server.Name, "client_api", address)
	})
	if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES) {
		err = &failure{code: exitBusy, err: err, hint: startHint(err)}
	}
	return errors.Join(failed, err)
}

// startHint says what may help when the server does not start.
func startHint(err error) string {
	switch {
	case errors.Is(err, homeserver.ErrKeyLost), errors.Is(err, homeserver.ErrDatabaseLost):
		return "do not delete anything before you have looked for a backup"
	case errors.Is(err, syscall.EADDRINUSE):
		return "another process listens there: stop it, or set that key under listen to another address"
	case errors.Is(err, syscall.EACCES):
		return "this user may not use that file, or a port below 1024"
	}
	return "the configuration in force is shown by \"securecomm config print\", and looked at by \"securecomm config check\""
}

// onHangup does something each time that the process is sent SIGHUP, until it is told to stop.
func onHangup(do func()) (stop func()) {
	hangups, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-hangups:
				do()
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(hangups)
		close(done)
	}
}

// welcome tells how the first users get in. The token is the first administrator's, empty if there is one already.
func (a *app) welcome(c *config.Config, server, token string) error {
	if c.Registration.Enabled && !c.Registration.RequireToken {
		err := a.say("Registration is open. Make an account with any Matrix client, or with\n  securecomm register alice --server %s", server)
		if err != nil {
			return err
		}
	}
	if token == "" {
		return nil
	}
	return a.say("This server has no administrator yet. The first one registers with this one-time token:\n  %s\n"+
		"for example with\n  securecomm register admin --server %s --token %s", token, server, token)
}

// logger writes what the configuration asks for.
func logger(c *config.Config, to io.Writer) *slog.Logger {
	var level slog.Level
	// The configuration was checked: it names one of slog's levels.
	_ = level.UnmarshalText([]byte(c.Log.Level))
	options := &slog.HandlerOptions{Level: level}
	if c.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(to, options))
	}
	return slog.New(slog.NewTextHandler(to, options))
}
