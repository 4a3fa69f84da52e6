// Command securecomm is the server, the administrator's tool and the user's terminal client in one.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/securecomm/securecomm/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args[1:], cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}
