// Command demo shows two organizations talking: it starts two servers on loopback that federate over TLS, has
// alice of the one and bob of the other talk through the terminal client, restarts one side in the middle,
// and then searches everything that the servers kept for what was said.
//
// It runs the real program as its users do and knows nothing of its insides. It exits with 1 and says what
// went wrong if any step fails or if a plaintext is found.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// deadline ends a demonstration that hangs.
const deadline = 3 * time.Minute

func main() {
	binary := flag.String("bin", "", "the securecomm program (default: it is built first)")
	keep := flag.Bool("keep", false, "keep the folder with everything that servers and clients wrote")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, deadline)
	err := run(ctx, *binary, *keep)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: FAILED: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, binary string, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "securecomm-demo-")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer func() {
		if keep {
			fmt.Println("Everything is in", dir)
			return
		}
		if gone := os.RemoveAll(dir); gone != nil && err == nil {
			err = gone
		}
	}()
	if binary, err = program(ctx, binary, dir); err != nil {
		return err
	}
	start := time.Now()
	stage, err := newStage(dir, binary)
	if err != nil {
		return err
	}
	defer stage.close()
	if err := stage.play(ctx); err != nil {
		for _, s := range stage.servers {
			fmt.Fprintf(os.Stderr, "--- the end of server %s's log\n%s\n", s.label, s.logTail())
		}
		return err
	}
	fmt.Printf("\nDone in %.1f seconds.\n", time.Since(start).Seconds())
	return nil
}

// program is the path of the program, built unless it was given.
func program(ctx context.Context, given, dir string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	fmt.Println("Building securecomm ...")
	built := filepath.Join(dir, "securecomm")
	build := exec.CommandContext(ctx, "go", "build", "-o", built, "github.com/securecomm/securecomm/cli/securecomm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w\n%s", err, out)
	}
	return built, nil
}
