package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/securecomm/securecomm/cli"
)

// TestMain lets the test's program be securecomm when a transcript runs it, or another client.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"securecomm": func() {
			os.Exit(cli.Run(context.Background(), os.Args[1:], cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
		},
		"other": func() {
			os.Exit(cli.RunOther(context.Background(), os.Args[1:], cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
		},
	})
}

// TestTranscripts runs the transcripts that need no server.
func TestTranscripts(t *testing.T) {
	testscript.Run(t, transcripts("testdata", nil))
}

// transcripts runs a folder of transcripts, each in a home of its own.
func transcripts(dir string, env func(*testscript.Env)) testscript.Params {
	return testscript.Params{
		Dir: dir,
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home")
			e.Setenv("HOME", home)
			e.Setenv("SECURECOMM_HOME", filepath.Join(home, "state"))
			e.Setenv("TZ", "UTC")
			if env != nil {
				env(e)
			}
			return os.MkdirAll(home, 0o700)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "arrives": arrives, "capture": capture, "field": field, "write": write,
		},
	}
}

// exits runs a program and checks its exit code: exits CODE PROGRAM ARGS...
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if failed, ok := err.(*exec.ExitError); ok {
		got = failed.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// arrives runs a program until its output has a text: arrives TEXT PROGRAM ARGS... What comes over federation
// takes a moment.
func arrives(ts *testscript.TestScript, _ bool, args []string) {
	for range maxRuns {
		err := ts.Exec(args[1], args[2:]...) // it may fail as long as what it needs has not arrived
		if err == nil && strings.Contains(ts.ReadFile("stdout"), args[0]) {
			return
		}
	}
	ts.Fatalf("%q did not arrive", args[0])
}

// maxRuns bounds arrives; one run takes some tens of milliseconds.
const maxRuns = 200

// capture sets a variable to the last output: capture NAME
func capture(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// field sets a variable to a field of the last output's JSON, or of the first object in it: field KEY NAME
func field(ts *testscript.TestScript, _ bool, args []string) {
	var document map[string]any
	ts.Check(json.NewDecoder(strings.NewReader(strings.TrimLeft(ts.ReadFile("stdout"), "["))).Decode(&document))
	value, ok := document[args[0]]
	if !ok {
		ts.Fatalf("there is no field %s", args[0])
	}
	ts.Setenv(args[1], fmt.Sprint(value))
}

// write writes a file: write NAME TEXT
func write(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(args[1]+"\n"), 0o600))
}
