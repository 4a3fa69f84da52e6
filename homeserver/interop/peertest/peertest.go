// Package peertest runs programs that others wrote, for tests: each takes a request per line of JSON on its
// standard input and answers with a line on its standard output.
//
//	{"do": "machine.sync", "with": {...}}  ->  {"value": ...}  or  {"error": "..."}
//
// The tests of e2ee/interop and homeserver/interop use it. It knows nothing of what is asked.
package peertest

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Peer is a running program.
type Peer struct {
	t       testing.TB
	mu      sync.Mutex
	encoder *json.Encoder
	decoder *json.Decoder
}

// Refused is an error of the other program, in its own words.
type Refused string

func (r Refused) Error() string { return string(r) }

// Args are the named arguments of a request.
type Args = map[string]any

// Need skips the test unless all these files are there; where CI=true, it fails. How says how they come there.
func Need(t testing.TB, how string, files ...string) {
	t.Helper()
	for _, file := range files {
		if filepath.Base(file) == file {
			if found, err := exec.LookPath(file); err == nil {
				file = found
			}
		}
		if _, err := os.Stat(file); err == nil {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing: %s", file, how)
		}
		t.Skipf("%s is missing: %s", file, how)
	}
}

// Start runs a program until the end of the test, when its input ends; that has to be its end.
func Start(t testing.TB, program string, args ...string) *Peer {
	t.Helper()
	process := exec.Command(program, args...)
	var said bytes.Buffer
	process.Stderr = &said
	in, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		late := time.AfterFunc(time.Minute, func() { _ = process.Process.Kill() })
		if err := process.Wait(); err != nil {
			t.Errorf("%s ended with %v", program, err)
		}
		late.Stop()
		if t.Failed() {
			t.Logf("%s said: %s", program, said.Bytes()[max(0, said.Len()-20000):])
		}
	})
	return &Peer{t: t, encoder: json.NewEncoder(in), decoder: json.NewDecoder(out)}
}

// Try asks the program to do something; the error is a refusal.
func (p *Peer) Try(do string, with Args, value any) error {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.encoder.Encode(Args{"do": do, "with": with}); err != nil {
		p.t.Fatalf("%s: the program does not listen: %v", do, err)
	}
	var answer struct {
		Value json.RawMessage `json:"value"`
		Error Refused         `json:"error"`
	}
	if err := p.decoder.Decode(&answer); err != nil {
		p.t.Fatalf("%s: the program did not answer: %v", do, err)
	}
	if answer.Error != "" {
		return answer.Error
	}
	if value != nil {
		if err := json.Unmarshal(answer.Value, value); err != nil {
			p.t.Fatalf("%s: %v in %s", do, err, answer.Value)
		}
	}
	return nil
}

// Do is Try that fails the test at a refusal.
func (p *Peer) Do(do string, with Args, value any) {
	p.t.Helper()
	if err := p.Try(do, with, value); err != nil {
		p.t.Fatalf("%s: %v", do, err)
	}
}
