package homeserver_test

import (
	"fmt"
	"os/exec"
	"path"
	"runtime/coverage"
	"slices"
	"strings"
	"testing"

	"github.com/securecomm/securecomm/homeserver/hstest"
)

// The budget of one PUT /send, without the specification's limits on anything else.
const (
	maxFunctions = 80
	maxFiles     = 25
	maxPackages  = 12
)

// TestSendBudget counts what one PUT /send runs through, by coverage counters. It needs a test binary that
// has them: see the target "budget" of the Makefile.
func TestSendBudget(t *testing.T) {
	if testing.CoverMode() != "atomic" {
		t.Skip("the test binary has no atomic coverage counters; run make budget")
	}
	s := hstest.New(t)
	alice := s.Register("alice")
	room := alice.CreateRoom(map[string]any{"preset": "private_chat"})
	content := map[string]any{"msgtype": "m.text", "body": "hello"}
	alice.Send(room, "m.room.message", content) // caches are warm from here on
	if err := coverage.ClearCounters(); err != nil {
		t.Fatal(err)
	}
	alice.Send(room, "m.room.message", content)
	dir := t.TempDir()
	if err := coverage.WriteCountersDir(dir); err != nil {
		t.Fatal(err)
	}
	if err := coverage.WriteMetaDir(dir); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "tool", "covdata", "func", "-i="+dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var functions, files, packages []string
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[2] == "0.0%" || strings.Contains(line, "test/") || strings.Contains(line, "total") {
			continue
		}
		file, _, _ := strings.Cut(fields[0], ":")
		functions = append(functions, path.Base(path.Dir(file))+"."+fields[1])
		files, packages = append(files, file), append(packages, path.Dir(file))
	}
	count := func(list []string) int { slices.Sort(list); return len(slices.Compact(list)) }
	n, f, p := len(functions), count(files), count(packages)
	t.Logf("one PUT /send runs %d functions in %d files of %d packages:\n%s", n, f, p, strings.Join(functions, "\n"))
	if n == 0 || n > maxFunctions || f > maxFiles || p > maxPackages {
		t.Error(fmt.Sprintf("over the budget of %d functions, %d files, %d packages", maxFunctions, maxFiles, maxPackages))
	}
}
